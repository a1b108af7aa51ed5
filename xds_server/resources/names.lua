-- What a request's name means: a version that the path names beside it, one target of a split, and the one
-- model that an alias stands for, under which path and body then go on to the replica.
--
-- Stands before request.lua, in one text with it.

local names = {}

local MARK = "/versions/"

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

local function encoded(text)
  return (string.gsub(text, "[^%w%-._~]", function(each) return string.format("%%%02X", string.byte(each)) end))
end

-- The path under the name that the runtime knows.
local function rewritten(path, known, first, stop)
  local model, version = model_and_version(known)
  local rest = string.sub(path, stop + 1)
  if version then
    local _, last = string.find(rest, "^/versions/[^/?:]+")
    rest = MARK .. encoded(version) .. string.sub(rest, (last or 0) + 1)
  end
  return string.sub(path, 1, first - 1) .. encoded(model) .. rest
end

-- The name that is asked of Envoy's balancer, and the path to go on with. `decoded` undoes percent-encoding.
function names.meant(config, headers, path, name, decoded)
  local further = config.names
  local segment, first, stop, last = segment_in(path, config.paths)
  local in_path = segment and decoded(segment)
  local version_there = segment and string.match(path, "^/versions/([^/?:]+)", last + 1)
  if further.versions and version_there and in_path == name then
    name = name .. MARK .. version_there
  end
  local split = further.splits and further.splits[name]
  local target = split and target_of(split, headers) or name
  local known = further.aliases and further.aliases[target] or target
  if in_path ~= nil and (in_path == name or in_path == model_and_version(name)) then
    local model, version = model_and_version(known)
    if model ~= in_path or version and version ~= version_there then
      path = rewritten(path, known, first, stop)
    end
  end
  return target, known, path
end

local function string_end(text, from)
  local stop = from
  while true do
    stop = string.find(text, '["\\]', stop + 1)
    if stop == nil or string.byte(text, stop) == 34 then
      return stop
    end
    stop = stop + 1
  end
end

-- A JSON object's text with the string under its own `key` replaced; nil where there is none.
function names.replaced(text, key, value)
  local quoted = '"' .. string.gsub(value, '["\\]', "\\%0") .. '"'
  local at, level, done, parts = 1, 0, 1, {}
  while true do
    local from, _, what = string.find(text, '([%[%]{}"])', at)
    if from == nil then
      break
    end
    at = from + 1
    if what == '"' then
      local stop = string_end(text, from)
      if stop == nil then
        return nil
      end
      at = stop + 1
      if level == 1 and string.sub(text, from + 1, stop - 1) == key then
        local _, begin = string.find(text, '^%s*:%s*"', stop + 1)
        local last = begin and string_end(text, begin)
        if last then
          parts[#parts + 1] = string.sub(text, done, begin - 1) .. quoted
          done, at = last + 1, last + 1
        end
      end
    elseif what == "{" or what == "[" then
      level = level + 1
    else
      level = level - 1
    end
  end
  if done == 1 then
    return nil
  end
  return table.concat(parts) .. string.sub(text, done)
end

