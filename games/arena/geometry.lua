-- A little geometry; arena/match.lua loads it with require("geometry").

local geometry = {}

-- The direction from one point to another, in radians.
function geometry.angle(from_x, from_y, to_x, to_y)
    return math.atan2(to_y - from_y, to_x - from_x)
end

-- The vector itself, or if it is longer than 1 the one of length 1: nobody is faster on the diagonal.
function geometry.at_most_one(x, y)
    local length = math.sqrt(x * x + y * y)
    if length > 1 then
        return x / length, y / length
    end
    return x, y
end

-- How near a point is to the line between two others.
function geometry.distance_to_line(x, y, ax, ay, bx, by)
    local dx, dy = bx - ax, by - ay
    local squared = dx * dx + dy * dy
    local along = squared > 0 and math.clamp(((x - ax) * dx + (y - ay) * dy) / squared, 0, 1) or 0
    local nx, ny = ax + along * dx - x, ay + along * dy - y
    return math.sqrt(nx * nx + ny * ny)
end

function geometry.inside(x, y, width, height)
    return x >= 0 and y >= 0 and x <= width and y <= height
end

return geometry
