-- Lets nobody in.
match_size = 1
max_players = 4
quick_play = true

function init(config)
  return {}
end

function join(player_id, state)
  return nil, "not_today"
end

function leave(player_id, state)
  return state
end

function handle_input(player_id, input, state)
  return state
end

function tick(state)
  return state
end

function get_state(player_id, state)
  return state
end
