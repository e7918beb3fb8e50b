-- Two players whose inputs are counted into a state each sees; an input with `finish` ends it.
match_size = 2
player_ttl_ms = 20000

function init(config)
  return { players = {}, tick = 0 }
end

function join(player_id, state)
  state.players[player_id] = { count = 0, last = 0, away = 0 }
  return state
end

function leave(player_id, state)
  state.players[player_id] = nil
  return state
end

function on_disconnect(player_id, state)
  state.players[player_id].away = state.players[player_id].away + 1
  return state
end

function handle_input(player_id, input, state)
  local me = state.players[player_id]
  me.count = me.count + 1
  me.last = input.n or me.last
  if input.shout then
    game.broadcast("shouted", { by = player_id, text = input.shout })
  end
  if input.whisper then
    game.send(player_id, { heard = input.whisper })
  end
  if input.finish then
    game.leaderboard.submit("duel", player_id, me.count)
    state._finished = true
    state._result = { winner = player_id, counts = me.count }
  end
  return state
end

function tick(state)
  state.tick = state.tick + 1
  return state
end

function get_state(player_id, state)
  return { you = player_id, tick = state.tick, players = state.players }
end
