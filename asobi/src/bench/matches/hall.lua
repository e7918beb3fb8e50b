-- Where many players stand about and nothing happens: what a player costs the host who is relayed to it.
match_size = 1
max_players = 500
quick_play = true
listed = true
state_strategy = "shared"
tick_rate = 0
player_ttl_ms = 600000
function init() return {} end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state) return state end
function get_state() return {} end
