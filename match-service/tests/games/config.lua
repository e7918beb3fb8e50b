return { chaos = "chaos.lua" }
