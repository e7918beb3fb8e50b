-- Two against two: the state says who plays with whom.
match_size = 4
teams = { count = 2, size = 2 }
player_ttl_ms = 20000

function init(config)
  return { teams = config.teams, seated = 0 }
end

function join(player_id, state)
  state.seated = state.seated + 1
  return state
end

function handle_input(player_id, input, state)
  if input.finish then
    state._finished = true
  end
  return state
end

function get_state(player_id, state)
  return state
end
