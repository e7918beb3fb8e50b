return {
  duel = "duel.lua",
  crowd = "crowd.lua",
  chaos = "chaos.lua",
}
