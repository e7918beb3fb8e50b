-- Does what games must not do, on request: { cmd = "error" | "loop" | "memory" | "broadcast" | "send" | "count" }.

match_size = 2
tick_rate = 50
state_strategy = "shared"

function init()
    return { count = 0 }
end

function join(player_id, state)
    return state
end

local commands = {}

function commands.error()
    error("on purpose")
end

function commands.loop()
    while true do
        pcall(function() while true do end end)
    end
end

function commands.memory()
    local hoard = {}
    while true do
        hoard[#hoard + 1] = string.rep("x", 100000) .. #hoard
    end
end

function commands.broadcast()
    game.broadcast("shout", { loud = true })
end

function commands.send(player_id)
    game.send(player_id, { hello = player_id })
end

function commands.count(player_id, state)
    state.count = state.count + 1
end

function handle_input(player_id, input, state)
    commands[input.cmd](player_id, state)
    return state
end

function tick(state)
    return state
end

function get_state(state)
    return state
end
