-- A match of two with a third seat, which it asks the queue to fill.
match_size = 2
max_players = 3
min_players = 1
backfill = true
listed = true
state_strategy = "shared"
tick_rate = 0

function init(config)
  return { players = {} }
end

function join(player_id, state)
  state.players[player_id] = true
  return state
end

function leave(player_id, state)
  state.players[player_id] = nil
  return state
end

function handle_input(player_id, input, state)
  if input.ask then
    local asked = game.match.request_backfill(input.ask, input.properties)
    state.asked = asked == true or asked.error
  end
  return state
end

function get_state(state)
  return state
end
