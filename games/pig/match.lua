-- Pig: a game of dice with bots and a record. Roll as often as you dare; a 1 takes the turn's points, holding keeps them. Fifty points win.
--
-- Input: { roll = true } or { hold = true }, from whoever's turn it is; everybody else's is ignored.
-- State: { turn = player id, pot, rolled, points = { [id] = n }, record }

match_size = 2
tick_rate = 2
state_strategy = "shared"
send_unchanged = false
quick_play = true
bots = { script = "bots/careful.lua", fill_after_ms = 5000, max = 1 }

local GOAL = 50

function init(config)
    -- The most points that anybody ever won with; another match may have stored it.
    local kept = game.storage.get("pig", "record")
    return { order = {}, points = {}, turn = 1, pot = 0, record = kept.ok or 0 }
end

function join(player_id, state)
    table.insert(state.order, player_id)
    state.points[player_id] = 0
    return state
end

local function finish(state, winner)
    state._finished = true
    state._result = { winner = winner, points = state.points }
    if state.points[winner] > state.record then
        game.storage.set("pig", "record", state.points[winner])
    end
    game.leaderboard.submit("pig", winner, state.points[winner])
    return state
end

function leave(player_id, state)
    state.points[player_id] = nil
    table.remove(state.order, table.find(state.order, player_id))
    state.turn, state.pot = 1, 0
    if #state.order == 1 then
        return finish(state, state.order[1])
    end
    return state
end

local function next_turn(state)
    state.turn = state.turn % #state.order + 1
    state.pot = 0
    return state
end

function handle_input(player_id, input, state)
    if #state.order < match_size or player_id ~= state.order[state.turn] then
        return state
    end
    if input.roll == true then
        state.rolled = game.random(6)
        if state.rolled == 1 then
            return next_turn(state)
        end
        state.pot = state.pot + state.rolled
    elseif input.hold == true then
        state.points[player_id] = state.points[player_id] + state.pot
        if state.points[player_id] >= GOAL then
            return finish(state, player_id)
        end
        return next_turn(state)
    end
    return state
end

function tick(state)
    return state
end

function get_state(state)
    return {
        turn = state.order[state.turn],
        pot = state.pot,
        rolled = state.rolled,
        points = state.points,
        record = state.record,
    }
end
