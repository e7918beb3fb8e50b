-- Echo: counts what it is sent. The smallest game there is, and what tests and load generators play.
--
-- Input: { n = any number }, which comes back in the state; { finish = true } ends the match with the sender as winner.
-- State: { tick, players = { [id] = { inputs = how many so far, last = the last n } } }

match_size = 2
min_players = 1
max_players = 8
tick_rate = 10
state_strategy = "shared"
listed = true
quick_play = true

function init(config)
    return { tick = 0, players = {} }
end

function join(player_id, state)
    state.players[player_id] = { inputs = 0 }
    return state
end

function leave(player_id, state)
    state.players[player_id] = nil
    return state
end

function handle_input(player_id, input, state)
    local player = state.players[player_id]
    player.inputs = player.inputs + 1
    player.last = input.n
    if input.finish == true then
        state._finished = true
        state._result = { winner = player_id }
    end
    return state
end

function tick(state)
    state.tick = state.tick + 1
    return state
end

function get_state(state)
    return { tick = state.tick, players = state.players }
end
