-- A bot that holds at twenty, or as soon as it would win.

function think(bot_id, state)
    if state.order[state.turn] ~= bot_id then
        return nil
    end
    if state.pot >= 20 or state.points[bot_id] + state.pot >= 50 then
        return { hold = true }
    end
    return { roll = true }
end
