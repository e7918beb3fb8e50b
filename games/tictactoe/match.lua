-- Tic-tac-toe, turn by turn: with tick_rate 0 nothing happens between moves, and everybody gets the state after each.
--
-- Input: { cell = 1..9 }, counted row by row. A move that is not allowed is answered with module.message { error = "…" }.
-- State: { board = { "X", "", … }, marks = { [id] = "X"|"O" }, turn = id of who is to move }

match_size = 2
tick_rate = 0
state_strategy = "shared"

local LINES = {
    { 1, 2, 3 }, { 4, 5, 6 }, { 7, 8, 9 },
    { 1, 4, 7 }, { 2, 5, 8 }, { 3, 6, 9 },
    { 1, 5, 9 }, { 3, 5, 7 },
}

function init(config)
    return { board = { "", "", "", "", "", "", "", "", "" }, players = {}, moves = 0 }
end

function join(player_id, state)
    table.insert(state.players, player_id)
    state.turn = state.players[1] -- who came first begins
    return state
end

local function other(player_id, state)
    return player_id == state.players[1] and state.players[2] or state.players[1]
end

local function mark(player_id, state)
    return player_id == state.players[1] and "X" or "O"
end

function leave(player_id, state)
    state._finished = true
    state._result = { winner = other(player_id, state), loser = player_id, reason = "left" }
    return state
end

local function wrong_with(player_id, cell, state)
    if #state.players < 2 then
        return "waiting_for_opponent"
    elseif player_id ~= state.turn then
        return "not_your_turn"
    elseif type(cell) ~= "number" or cell % 1 ~= 0 or cell < 1 or cell > 9 then
        return "no_such_cell"
    elseif state.board[cell] ~= "" then
        return "cell_taken"
    end
end

local function completed_line(state)
    for _, line in ipairs(LINES) do
        local a, b, c = state.board[line[1]], state.board[line[2]], state.board[line[3]]
        if a ~= "" and a == b and b == c then
            return line
        end
    end
end

function handle_input(player_id, input, state)
    local problem = wrong_with(player_id, input.cell, state)
    if problem then
        game.send(player_id, { error = problem })
        return state
    end
    state.board[input.cell] = mark(player_id, state)
    state.moves = state.moves + 1
    state.turn = other(player_id, state)
    local line = completed_line(state)
    if line then
        state._finished = true
        state._result = { winner = player_id, loser = state.turn, line = line, reason = "line" }
    elseif state.moves == 9 then
        state._finished = true
        state._result = { draw = true, reason = "draw" }
    end
    return state
end

function get_state(state)
    local marks = {}
    for _, id in ipairs(state.players) do
        marks[id] = mark(id, state)
    end
    return { board = state.board, marks = marks, turn = state.turn }
end
