-- Two players who see each other's inputs counted, ten times a second, until one of them says that it is over.
match_size = 2
tick_rate = 10
state_strategy = "shared"
function init() return { tick = 0, inputs = 0 } end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, input, state)
  state.inputs = state.inputs + 1
  if input.over then state._finished = true end
  return state
end
function tick(state)
  state.tick = state.tick + 1
  return state
end
function get_state(state) return { tick = state.tick, inputs = state.inputs } end
