return { default = "match.lua", pair = "pair.lua", skill = "skill.lua", group = "group.lua", play = "play.lua" }
