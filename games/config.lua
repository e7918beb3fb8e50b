-- The modes this deployment offers: each name with its script. Players queue for a mode by this name.
return {
    arena = "arena/match.lua",
    tictactoe = "tictactoe/match.lua",
    echo = "echo/match.lua",
    pig = "pig/match.lua",
}
