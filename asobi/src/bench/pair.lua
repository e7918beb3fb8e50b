-- Two players whose match is over when one of them says so.
match_size = 2
function init() return {} end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state)
  state._finished = true
  return state
end
function tick(state) return state end
function get_state() return {} end
