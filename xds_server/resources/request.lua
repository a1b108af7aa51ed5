-- Finds the model that a request is for, and gives Envoy's own errors the shape that the caller expects.
--
-- Runs on routes to pools only, each of which says where names are (resources/naming.py). Whatever the
-- place, the name ends as `envoy.lb` metadata, from which Envoy picks a replica that has the model, and in
-- the header x-xds-model, from which a split pool's part is picked. Names are compared and passed on byte
-- by byte; what cannot travel in a header is refused.

local byte, char, find, gsub, match, sub = string.byte, string.char, string.find, string.gsub, string.match, string.sub

local OWN = "xds-server"
local LB = "envoy.lb"
local GRPC_FIELDS = "envoy.filters.http.grpc_field_extraction"

-- Paths, of which one that ends with an asterisk stands for all that begin so.
local function paths(list)
  local found = { exact = {}, starts = {} }
  for _, path in ipairs(list or {}) do
    if sub(path, -1) == "*" then
      found.starts[#found.starts + 1] = sub(path, 1, -2)
    else
      found.exact[path] = true
    end
  end
  return found
end

local function is_one_of(found, path)
  local query = find(path, "?", 1, true)
  if found.exact[query and sub(path, 1, query - 1) or path] then
    return true
  end
  for _, start in ipairs(found.starts) do
    if sub(path, 1, #start) == start then
      return true
    end
  end
  return false
end

local function read_settings(context)
  return {
    keys = context:get("keys"),
    headers = context:get("headers") or {},
    paths = context:get("paths") or {},
    reject = context:get("reject"),
    reroute = context:get("reroute"),
    transcode = context:get("transcode"),
    max_bytes = context:get("max_bytes"),
    misses = context:get("misses"),
    any_key = context:get("any_key"),
    without = paths(context:get("without")),
    openai = paths(context:get("openai")),
    fallback = context:get("fallback"),
    names = context:get("names"),
  }
end

local function settings(h)
  return settings_of(h, read_settings)
end

local function is_utf8(text)
  local at, length = 1, #text
  while at <= length do
    local first = byte(text, at)
    local more = first < 0x80 and 0 or first < 0xC2 and 9 or first < 0xE0 and 1 or first < 0xF0 and 2
      or first < 0xF5 and 3 or 9
    if more == 9 or at + more > length then
      return false
    end
    for next_at = at + 1, at + more do
      local each = byte(text, next_at)
      if each < 0x80 or each > 0xBF then
        return false
      end
    end
    local second = more > 0 and byte(text, at + 1) or 0
    if first == 0xE0 and second < 0xA0 or first == 0xED and second > 0x9F
      or first == 0xF0 and second < 0x90 or first == 0xF4 and second > 0x8F then
      return false
    end
    at = at + more + 1
  end
  return true
end

-- Why a name cannot be one; nil if it can.
local function fault(name)
  if find(name, "[%z\1-\31\127]") then
    return "the model's name has a control character in it"
  end
  if find(name, "[\128-\255]") and not is_utf8(name) then
    return "the model's name is not UTF-8"
  end
  return nil
end

local function in_path(path, patterns)
  for _, pattern in ipairs(patterns) do
    local _, last, segment = find(path, pattern)
    if last then
      local after = byte(path, last + 1)
      if after == nil or after == 47 or after == 63 then -- the end, a slash, a question mark
        local name = decoded(segment)
        if name == nil then
          return nil, "the model's name in the path has a malformed percent-encoding"
        end
        return name
      end
    end
  end
  return nil
end

-- What the message says in a field that the methods call either way; nil for nothing.
local function in_message(metadata, key, other)
  local fields = metadata:get(GRPC_FIELDS)
  local values = fields and (fields[key] or fields[other])
  local value = values and values[1]
  return value ~= "" and value or nil
end

local function in_body(metadata)
  if metadata:get(GRPC_FIELDS) then
    return in_message(metadata, "model_name", "name"), nil, "grpc"
  end
  local json = metadata:get(OWN .. ".json")
  if json == nil then
    return nil
  end
  if json.error then
    return nil, "the body is not JSON"
  end
  local name = json.model
  if name == nil or name == "" then
    return nil
  end
  if type(name) ~= "string" then
    return nil, "the model's name in the body is not a string"
  end
  return name, nil, "json"
end

-- Whether an object that is `depth` deep in a JSON text has the key.
local function has_key(text, wanted, depth)
  local at, level = 1, 0
  while true do
    local from, _, what = find(text, '([%[%]{}"])', at)
    if from == nil then
      return false
    end
    at = from + 1
    if what == '"' then
      local stop = from
      local escaped
      repeat
        stop = find(text, '["\\]', stop + 1)
        if stop == nil then
          return false
        end
        escaped = byte(text, stop) == 92
        if escaped then
          stop = stop + 1
        end
      until not escaped
      if level == depth and sub(text, from + 1, stop - 1) == wanted and find(text, "^%s*:", stop + 1) then
        return true
      end
      at = stop + 1
    elseif what == "{" or what == "[" then
      level = level + 1
    else
      level = level - 1
    end
  end
end

-- What the replicas' gRPC could not be told; nil if nothing of the kind.
local function untranslatable(h)
  local body = h:body()
  local text = body and body:getBytes(0, body:length()) or ""
  if find(text, '"data"%s*:') and has_key(text, "data", 3) then
    return "the replicas speak gRPC: an input's values go into \"contents\", such as "
      .. "{\"contents\": {\"fp32_contents\": [0.5]}}; \"data\" would be lost"
  end
  return nil
end

local function refuse(h, status, message)
  h:respond({ [":status"] = tostring(status), ["content-type"] = "text/plain" }, message)
end

function envoy_on_request(h)
  local config = settings(h)
  -- Waiting for the body ends the life of all that was asked of the request before.
  local problem = config.transcode and untranslatable(h) or nil
  local headers = h:headers()
  local metadata = h:streamInfo():dynamicMetadata()
  metadata:set(OWN, "from", "none") -- marks the request as ours: see local_replies in filters.py
  if config.transcode and headers:get(":method") == "HEAD" then
    metadata:set(OWN, "head", true)
  end
  if problem then
    return refuse(h, 400, problem)
  end
  local path = headers:get(":path")
  if is_one_of(config.without, path) then
    metadata:set(LB, config.any_key, "1")
    return
  end

  local name, from
  local function offered(other, place)
    if name == nil then
      name, from = other, place
    elseif config.reject and other ~= name then
      return "the request names two models: " .. name .. " (" .. from .. ") and " .. other .. " (" .. place .. ")"
    end
    return nil
  end

  for _, header in ipairs(config.headers) do
    local value = headers:get(header)
    if value ~= nil and value ~= "" then
      problem = offered(value, "header " .. header)
      if name ~= nil and not config.reject then
        break
      end
      for number = 1, headers:getNumValues(header) - 1 do
        problem = problem or offered(headers:getAtIndex(header, number), "header " .. header)
      end
    end
  end
  if not problem and (name == nil or config.reject) then
    local value, wrong = in_path(path, config.paths)
    problem = wrong or value and value ~= "" and offered(value, "path") or nil
  end
  if not problem and (name == nil or config.reject) then
    local value, wrong, place = in_body(metadata)
    problem = wrong or value and offered(value, place) or nil
  end
  problem = problem or name and fault(name)
  if problem then
    return refuse(h, 400, problem)
  end

  if name == nil and config.fallback and config.fallback.no_model then
    name, from = config.fallback.model, "fallback"
  end
  if name then
    metadata:set(OWN, "model", name)
    metadata:set(OWN, "from", from)
    if config.names then
      local beside = from == "grpc" and in_message(metadata, "model_version", "version")
      problem = beside and fault(beside)
      if problem then
        return refuse(h, 400, problem)
      end
      local asked, full = names.meant(config, headers, path, name, beside)
      if full ~= name then
        metadata:set(OWN, "full", full)
      end
      name = asked
    end
    headers:replace("x-xds-model", name)
    for _, key in ipairs(config.keys) do
      metadata:set(LB, key, name)
    end
    if config.fallback and config.fallback.not_loaded then
      local tried = { {}, {} }
      for _, key in ipairs(config.keys) do
        tried[1][key], tried[2][key] = name, config.fallback.model
      end
      metadata:set(LB, "fallback_list", tried)
    end
    if config.reroute then
      h:clearRouteCache()
    end
  end
end
