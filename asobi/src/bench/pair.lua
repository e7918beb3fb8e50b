-- Two players whose match is over at its first tick.
match_size = 2
tick_rate = 20
function init() return {} end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state) return state end
function tick(state)
  state._finished = true
  return state
end
function get_state() return {} end
