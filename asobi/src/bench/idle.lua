-- The bench's own cluster has to serve some mode; this one waits for nobody.
match_size = 2
function init() return {} end
function join(_, state) return state end
function leave(_, state) return state end
function handle_input(_, _, state) return state end
function tick(state) return state end
function get_state() return {} end
