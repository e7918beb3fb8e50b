-- Does on command what a script should not do.
match_size = 1
quick_play = true

function init(config)
  return { ticks = 0, inputs = 0 }
end

function join(player_id, state)
  return state
end

function leave(player_id, state)
  return state
end

function handle_input(player_id, input, state)
  if input.cmd == "error" then
    error("as you wish")
  elseif input.cmd == "loop" then
    while true do end
  elseif input.cmd == "stubborn" then
    while true do
      pcall(function()
        while true do end
      end)
    end
  elseif input.cmd == "memory" then
    local hoard = {}
    for i = 1, 1e9 do
      hoard[i] = string.rep("x", 1e6) .. i
    end
  elseif input.cmd == "recurse" then
    local function deeper(n)
      return 1 + deeper(n + 1)
    end
    deeper(1)
  elseif input.cmd == "huge" then
    state.blob = string.rep("x", 2 * 1024 * 1024)
  end
  state.inputs = state.inputs + 1
  return state
end

function tick(state)
  state.ticks = state.ticks + 1
  return state
end

function get_state(player_id, state)
  return state
end
