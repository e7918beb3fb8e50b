-- The same scripts under several names, so that each case has matches of its own.
return {
  pair = "pair.lua",
  four = "four.lua",
  gate = "gate.lua",
  lobby = "lobby.lua",
  lobby_refusals = "lobby.lua",
  lobby_lists = "lobby.lua",
  lobby_talk = "lobby.lua",
  lobby_end = "lobby.lua",
}
