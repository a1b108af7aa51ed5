-- What both scripts know: a route's settings, and what a request's name means: a version that is named beside
-- it, and one target of a split.
--
-- Stands before request.lua in one text with it, and before renames.lua.

local names = {}

local MARK = "/versions/"

-- A route's settings by their id: taken apart once in each worker. Those of routes that are no more go with
-- all others when there are MOST of them.
local taken, held, MOST = {}, 0, 500

-- `read` takes them apart.
local function settings_of(h, read)
  local context = h:filterContext()
  local id = context:get("id")
  local found = taken[id]
  if found == nil then
    found = read(context)
    if held >= MOST then taken, held = {}, 0 end
    taken[id], held = found, held + 1
  end
  return found
end

local function decoded(text)
  if not string.find(text, "%", 1, true) then
    return text
  end
  if string.find(text, "%%%X") or string.find(text, "%%%x%X") or string.find(text, "%%%x?$") then
    return nil
  end
  return (string.gsub(text, "%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function encoded(text)
  return (string.gsub(text, "[^%w%-._~]", function(each) return string.format("%%%02X", string.byte(each)) end))
end

-- A number from 0 to total - 1 that depends on `value` alone. Products stay below 2^53, so that
-- xds_server/mesh/names.py computes the same.
function names.share(value, total)
  local state = 0
  for at = 1, #value do
    state = (state * 257 + string.byte(value, at) + 1) % 2147483647
  end
  for _ = 1, 3 do
    state = (state * 48271 + 1) % 2147483647
  end
  return state % total
end

local function model_and_version(name)
  local model, version = string.match(name, "^(.+)/versions/(.+)$")
  return model or name, version
end

local function target_of(split, headers)
  local value = split.sticky and headers:get(split.sticky)
  local share
  if value ~= nil and value ~= "" then
    share = names.share(value, split.total)
  else
    share = math.random(0, split.total - 1)
  end
  for number, stop in ipairs(split.ends) do
    if share < stop then
      return split.names[number]
    end
  end
end

-- Where the path names a model: the segment, its first and last byte, and the last byte of the pattern.
local function segment_in(path, patterns)
  for _, pattern in ipairs(patterns) do
    local marked = string.gsub(pattern, "%(%[%^/%?%]%+%)", "()%0()")
    local _, last, first, segment, stop = string.find(path, marked)
    local after = last and string.byte(path, last + 1)
    if last and (after == nil or after == 47 or after == 63) then -- the end, a slash, a question mark
      return segment, first, stop - 1, last
    end
  end
end

-- The name that is asked of Envoy's balancer, and the request's own with the version that stands beside it:
-- in the path, or `beside` in the message.
function names.meant(config, headers, path, name, beside)
  local further = config.names
  local full = name
  if further.versions then
    local segment, _, _, last = segment_in(path, config.paths)
    local version = beside
    if segment and decoded(segment) == name then
      version = string.match(path, "^/versions/([^/?:]+)", last + 1) or version
    end
    full = version and name .. MARK .. version or name
  end
  local split = further.splits and further.splits[full]
  return split and target_of(split, headers) or full, full
end

