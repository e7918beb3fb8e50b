-- Anybody may walk in: for quick play, lists and refusals.
match_size = 1
max_players = 3
min_players = 1
listed = true
quick_play = true
state_strategy = "shared"

function init(config)
  return { names = {}, inputs = 0 }
end

function join(player_id, state, ctx)
  if ctx and ctx.code == "wrong" then
    return nil, "wrong_code"
  end
  state.names[player_id] = ctx and ctx.name or "nobody"
  return state
end

function leave(player_id, state)
  state.names[player_id] = nil
  return state
end

function handle_input(player_id, input, state)
  state.inputs = state.inputs + 1
  if input.close then
    game.match.set_joinable(false)
  end
  return state
end

function tick(state)
  return state
end

function get_state(state)
  return state
end
