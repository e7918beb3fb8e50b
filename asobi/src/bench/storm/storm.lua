-- Where the storm's players are while their gateway dies: whoever sees a state is back in their match.
match_size = 1
max_players = 50
quick_play = true
state_strategy = "shared"
tick_rate = 2
player_ttl_ms = 600000
function init() return { ticks = 0 } end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state) return state end
function tick(state)
  state.ticks = state.ticks + 1
  return state
end
-- One state for all: nobody is named.
function get_state(state) return { ticks = state.ticks } end
