-- Nobody waits long for the other one: whoever queues alone is told so after a few seconds.
match_size = 2
max_wait_seconds = 3

function init(config)
  return {}
end

function join(player_id, state)
  return state
end

function leave(player_id, state)
  return state
end

function handle_input(player_id, input, state)
  return state
end

function tick(state)
  state._finished = true
  return state
end

function get_state(player_id, state)
  return state
end
