return {
  duel = "duel.lua",
  crowd = "crowd.lua",
  chaos = "chaos.lua",
  ledger = "ledger.lua",
  teams = "queue/teams.lua",
  skill = "queue/skill.lua",
  wishes = "queue/wishes.lua",
  refill = "queue/refill.lua",
  brief = "queue/brief.lua",
}
