-- As pair.lua, for two who are about as good, however long they wait.
match_size = 2
strategy = "skill_based"
skill_window = 10
skill_expand_rate = 0
max_wait_seconds = 3600
function init() return {} end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state)
  state._finished = true
  return state
end
function tick(state) return state end
function get_state() return {} end
