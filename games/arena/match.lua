-- Arena: move, aim, shoot. Five hits win; after 60 seconds the highest score does.
--
-- Input:  { move_x = -1..1, move_y = -1..1, aim_x = x, aim_y = y, shoot = true|false }, every field optional.
--         move_* stays until the next input that has one; aim_* is the point in the arena to shoot at.
-- State:  { tick, time_left, width, height, players = { [id] = { x, y, aim, score } }, shots = { { x, y } } }
-- Events: match.hit { shooter, victim, score }

match_size = 2
max_players = 8
min_players = 2
tick_rate = 10
state_strategy = "shared"
listed = true
quick_play = true

local geometry = require("geometry")

local WIDTH, HEIGHT = 800, 600
local SPEED = 20        -- of a player, per tick
local SHOT_SPEED = 40   -- of a shot, per tick
local SHOT_LIFE = 30    -- ticks
local RELOAD = 4        -- ticks between two shots
local RADIUS = 22       -- of a player
local HITS_TO_WIN = 5
local TICKS = 60 * tick_rate

-- Everything that matters lives in the state: it is what survives when a match moves to another host.
function init(config)
    return { tick = 0, order = {}, players = {}, shots = {} }
end

-- A place on a circle around the middle for each seat, so that the first two face each other.
local function spawn(seat)
    local angle = math.pi * (1 + seat) + (seat > 2 and seat or 0) * 0.7
    return WIDTH / 2 + math.cos(angle) * 300, HEIGHT / 2 + math.sin(angle) * 220
end

function join(player_id, state)
    table.insert(state.order, player_id)
    local x, y = spawn(#state.order)
    state.players[player_id] = {
        x = x, y = y,
        move_x = 0, move_y = 0,
        aim = geometry.angle(x, y, WIDTH / 2, HEIGHT / 2),
        shoot = false,
        reload = 0,
        score = 0,
        scored_at = 0, -- when the last hit was: of two equal scores the earlier one wins
    }
    return state
end

local function finish(state, winner, reason)
    local scores, losers = {}, game.array()
    for id, player in pairs(state.players) do
        scores[id] = player.score
        if id ~= winner then
            table.insert(losers, id)
        end
    end
    state._finished = true
    state._result = { winner = winner, losers = losers, scores = scores, reason = reason }
    if winner then
        game.leaderboard.submit("arena", winner, state.players[winner].score)
    end
    return state
end

function leave(player_id, state)
    state.players[player_id] = nil
    local place = table.find(state.order, player_id)
    if place then
        table.remove(state.order, place)
    end
    if #state.order == 1 then
        return finish(state, state.order[1], "everybody else left")
    end
    return state
end

-- Clients may send anything at all: only numbers count as numbers.
local function number(value)
    if type(value) == "number" and value == value and math.abs(value) < 1e6 then
        return value
    end
    return nil
end

function handle_input(player_id, input, state)
    local player = state.players[player_id]
    if not player then
        return state
    end
    player.move_x = math.clamp(number(input.move_x) or player.move_x, -1, 1)
    player.move_y = math.clamp(number(input.move_y) or player.move_y, -1, 1)
    local aim_x, aim_y = number(input.aim_x), number(input.aim_y)
    if aim_x and aim_y then
        player.aim = geometry.angle(player.x, player.y, aim_x, aim_y)
    end
    if input.shoot ~= nil then
        player.shoot = input.shoot == true
    end
    return state
end

local function move(player)
    local dx, dy = geometry.at_most_one(player.move_x, player.move_y)
    player.x = math.clamp(player.x + dx * SPEED, RADIUS, WIDTH - RADIUS)
    player.y = math.clamp(player.y + dy * SPEED, RADIUS, HEIGHT - RADIUS)
end

local function shoot(id, player, state)
    player.reload = math.max(0, player.reload - 1)
    if player.shoot and player.reload == 0 then
        player.reload = RELOAD
        table.insert(state.shots, {
            owner = id,
            x = player.x, y = player.y,
            dx = math.cos(player.aim) * SHOT_SPEED, dy = math.sin(player.aim) * SHOT_SPEED,
            life = SHOT_LIFE,
        })
    end
end

-- Whom a shot hits on its way from one tick to the next.
local function victim_of(shot, state)
    for _, id in ipairs(state.order) do
        local player = state.players[id]
        if id ~= shot.owner
            and geometry.distance_to_line(player.x, player.y, shot.x, shot.y, shot.x + shot.dx, shot.y + shot.dy) < RADIUS
        then
            return id, player
        end
    end
end

local function fly(state)
    local flying = {}
    for _, shot in ipairs(state.shots) do
        local hit, victim = victim_of(shot, state)
        local shooter = state.players[shot.owner]
        shot.x, shot.y, shot.life = shot.x + shot.dx, shot.y + shot.dy, shot.life - 1
        if hit then
            if shooter then
                shooter.score = shooter.score + 1
                shooter.scored_at = state.tick
            end
            victim.x = game.random(RADIUS, WIDTH - RADIUS)
            victim.y = game.random(RADIUS, HEIGHT - RADIUS)
            game.broadcast("hit", { shooter = shot.owner, victim = hit, score = shooter and shooter.score })
        elseif shot.life > 0 and geometry.inside(shot.x, shot.y, WIDTH, HEIGHT) then
            table.insert(flying, shot)
        end
    end
    state.shots = flying
end

-- The highest score; of equal ones the one that was there first.
local function best(state)
    local first
    for _, id in ipairs(state.order) do
        local player, leader = state.players[id], first and state.players[first]
        if not leader
            or player.score > leader.score
            or (player.score == leader.score and player.scored_at < leader.scored_at)
        then
            first = id
        end
    end
    return first
end

function tick(state)
    state.tick = state.tick + 1
    for _, id in ipairs(state.order) do
        local player = state.players[id]
        move(player)
        shoot(id, player, state)
    end
    fly(state)
    local leader = best(state)
    if leader and state.players[leader].score >= HITS_TO_WIN then
        return finish(state, leader, "score")
    end
    if state.tick >= TICKS then
        return finish(state, leader, "time")
    end
    return state
end

-- A player who lost the connection stands still until they are back.
function on_disconnect(player_id, state)
    local player = state.players[player_id]
    if player then
        player.move_x, player.move_y, player.shoot = 0, 0, false
    end
    return state
end

-- What everybody sees. Whole numbers keep it small.
function get_state(state)
    local players, shots = {}, game.array()
    for id, player in pairs(state.players) do
        players[id] = {
            x = math.round(player.x), y = math.round(player.y),
            aim = math.round(player.aim * 100) / 100,
            score = player.score,
        }
    end
    for _, shot in ipairs(state.shots) do
        table.insert(shots, { x = math.round(shot.x), y = math.round(shot.y) })
    end
    return {
        tick = state.tick,
        time_left = math.ceil((TICKS - state.tick) / tick_rate),
        width = WIDTH, height = HEIGHT,
        players = players,
        shots = shots,
    }
end
