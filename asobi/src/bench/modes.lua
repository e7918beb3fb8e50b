return { default = "match.lua", pair = "pair.lua", skill = "skill.lua", play = "play.lua" }
