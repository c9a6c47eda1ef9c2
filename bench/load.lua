-- wrk's script: fills in a request anew for each event, and prints the result as a line of JSON.
--
-- Arguments: the file of the request; a number to begin with; how many orders are stored that the events may be about,
-- or 0 for an order of its own for each; events a second, or 0 for as many as are answered; a file for the answers.
--
-- A request is joined from pieces, since wrk's own function would format every header for each request.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } now_t; int clock_gettime(int clock, now_t *now);")
local clock = ffi.new("now_t")
local pieces, places, values = {}, {}, {}
local number, orders

local function now() -- CLOCK_MONOTONIC
  ffi.C.clock_gettime(1, clock)
  return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end

-- Sends on a schedule, however long the answers take, and notes which event was answered when.
local function pace(rate, answers)
  local due
  function delay()
    due = (due or now()) + 1 / rate
    return math.max(0, math.floor((due - now()) * 1000))
  end
  function response(status, headers)
    if status == 200 then
      answers:write(headers["event-id"] or headers["Event-Id"], string.format(" %.6f\n", now()))
    end
  end
end

function init(arguments)
  for text, place in (io.open(arguments[1], "rb"):read("*a") .. "<end>"):gmatch("(.-)<(%l+)>") do
    pieces[#pieces + 1] = text
    pieces[#pieces + 1] = ""
    places[#places + 1] = place
  end
  number, orders = tonumber(arguments[2]), tonumber(arguments[3])
  values["end"] = ""
  math.randomseed(number)
  if tonumber(arguments[4]) > 0 then
    pace(tonumber(arguments[4]), io.open(arguments[5], "w"))
  end
end

function request()
  number = number + 1
  if not values.time or number % 100 == 0 then
    values.time = os.date("!%Y-%m-%dT%H:%M:%S+00:00")
  end
  values.number = string.format("%016.0f", number)
  values.reference = "PRI" .. (orders > 0 and string.format("%016.0f", math.random(0, orders - 1)) or values.number)
  for at = 1, #places do
    pieces[2 * at] = values[places[at]]
  end
  return table.concat(pieces)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "failed": %d, "broken": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
