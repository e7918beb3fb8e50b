-- Two players who queued for it; nobody else may see it or walk in.
match_size = 2

function init(config)
  return { inputs = {}, last = {} }
end

function join(player_id, state)
  state.inputs[player_id] = 0
  return state
end

function leave(player_id, state)
  state.inputs[player_id] = nil
  return state
end

function handle_input(player_id, input, state)
  state.inputs[player_id] = state.inputs[player_id] + 1
  state.last[player_id] = input.n
  if input.finish then
    state._finished = true
    state._result = { winner = player_id }
  end
  return state
end

function tick(state)
  return state
end

function get_state(player_id, state)
  return { you = player_id, inputs = state.inputs, last = state.last }
end
