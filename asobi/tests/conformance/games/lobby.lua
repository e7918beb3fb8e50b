-- Anybody may walk in and have it do things.
match_size = 1
max_players = 4
listed = true
quick_play = true
state_strategy = "shared"

function init(config)
  return { names = {} }
end

function join(player_id, state, ctx)
  if ctx and ctx.code == "bad" then
    return nil, "wrong_code"
  end
  state.names[player_id] = ctx and ctx.name or "somebody"
  game.broadcast("arrived", { player_id = player_id })
  return state
end

function leave(player_id, state)
  state.names[player_id] = nil
  return state
end

function handle_input(player_id, input, state)
  if input.cmd == "whisper" then
    game.send(player_id, { heard = input.text })
  elseif input.cmd == "error" then
    error("as you wish")
  elseif input.cmd == "close" then
    game.match.set_joinable(false)
    game.broadcast("closed", { by = player_id })
  elseif input.cmd == "finish" then
    state._finished = true
    state._result = { winner = player_id }
  end
  return state
end

function tick(state)
  return state
end

function get_state(state)
  return state
end
