-- A small arena: who moves where, who is hurt how badly. Inputs carry their sender's own numbers, which are counted into
-- the state, so that a number that never came, or came twice, is seen by everybody. Settings are written above by the bench.
local WIDTH, HEIGHT = 1600, 900

function init(config)
  return { tick = 0, players = {} }
end

function join(player_id, state)
  local seat = state.seats or 0
  state.seats = seat + 1
  state.players[player_id] = {
    n = 0, missing = 0, twice = 0,
    x = 100 + 40 * seat, y = 100 + 30 * seat, dx = 1, dy = 1, hp = 100, score = 0,
  }
  return state
end

function leave(player_id, state)
  state.players[player_id] = nil
  return state
end

function handle_input(player_id, input, state)
  local me = state.players[player_id]
  local n = input.n
  if n <= me.n then
    me.twice = me.twice + 1
  else
    me.missing = me.missing + n - me.n - 1
    me.n = n
  end
  me.dx = input.dx or me.dx
  me.dy = input.dy or me.dy
  return state
end

function tick(state)
  state.tick = state.tick + 1
  for _, player in pairs(state.players) do
    player.x = (player.x + 7 * player.dx) % WIDTH
    player.y = (player.y + 5 * player.dy) % HEIGHT
    -- A collision course costs health, as a shot would.
    if player.x < player.y / 8 then
      player.hp = player.hp > 1 and player.hp - 1 or 100
      player.score = player.score + 1
    end
  end
  return state
end

-- Per player: (player_id, state). Shared: (state).
function get_state(player_id, state)
  if state == nil then
    state = player_id
    return { tick = state.tick, players = state.players }
  end
  return { tick = state.tick, you = player_id, players = state.players }
end
