-- Four players whose inputs are numbered by themselves. The state is a ledger: what came, what never came, what came
-- twice, and how many points were submitted for it. It is over when all four have said so, and the result is the ledger.
match_size = 4
tick_rate = 5
player_ttl_ms = 120000

-- Inputs for which there is a point.
local POINT = 3

function init(config)
  return { tick = 0, finished = 0, players = {} }
end

function join(player_id, state)
  state.players[player_id] = { last = 0, count = 0, missing = 0, twice = 0, points = 0 }
  return state
end

function leave(player_id, state)
  return state
end

function handle_input(player_id, input, state)
  local me = state.players[player_id]
  me.count = me.count + 1
  if input.n <= me.last then
    me.twice = me.twice + 1
  else
    me.missing = me.missing + input.n - me.last - 1
    me.last = input.n
  end
  if me.count % POINT == 0 then
    me.points = me.points + 1
    game.leaderboard.submit("points", player_id, 1)
  end
  if input.finish and not me.finish then
    me.finish = true
    state.finished = state.finished + 1
    if state.finished == 4 then
      state._finished = true
      state._result = { tick = state.tick, players = state.players }
    end
  end
  return state
end

function tick(state)
  state.tick = state.tick + 1
  return state
end

-- Little, so that many of them fit into a debug build on two cores.
function get_state(player_id, state)
  local me = state.players[player_id]
  return { tick = state.tick, last = me.last, points = me.points }
end
