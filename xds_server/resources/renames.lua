-- Asks a replica under the name that it has, where the request has another one.
--
-- Runs on the way to the replica that Envoy has picked, again for each further try, and on those routes alone
-- whose replicas may be asked under other names. The endpoint tells under which (resources/endpoints.py),
-- where the pool's document does not. What an earlier try has changed is changed back.

local OWN = "xds-server"
local LB = "envoy.lb"
local TOLD = "x-xds-known-as"
local ORIGINAL = "x-envoy-original-path"

local function read_settings(context)
  return {
    key = context:get("key"),
    paths = context:get("paths") or {},
    known = context:get("known") or {},
    versions = context:get("versions"),
    json_key = context:get("json_key"),
    inserts = context:get("inserts"),
  }
end

-- The name by which the endpoint has to be asked for `name`; nil where it tells none. A star: for all others.
local function told_of(told, name)
  local _, last = string.find(told, "&" .. encoded(name) .. "=", 1, true)
  if last == nil then
    _, last = string.find(told, "&*=", 1, true)
  end
  return last and decoded(string.match(told, "^[^&]*", last + 1))
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

local function quoted(text)
  return '"' .. string.gsub(text, '["\\]', "\\%0") .. '"'
end

local function utf8(code)
  local low = 0x80 + code % 64
  if code < 0x80 then
    return string.char(code)
  elseif code < 0x800 then
    return string.char(0xC0 + math.floor(code / 64), low)
  end
  local middle = 0x80 + math.floor(code / 64) % 64
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), middle, low)
  end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64, middle, low)
end

-- What a JSON string says, without its quotes. Escapes of control characters, which no name has, stay.
local function unescaped(text)
  local high = nil -- the first half of a character that takes two escapes
  return (string.gsub(text, "\\(.)(%x?%x?%x?%x?)", function(kind, digits)
    if kind ~= "u" or #digits < 4 then
      return string.find(kind, "[bfnrtu]") and "\\" .. kind .. digits or kind .. digits
    end
    local code = tonumber(digits, 16)
    if code >= 0xD800 and code < 0xDC00 then
      high = code
      return ""
    elseif high ~= nil then
      code, high = 0x10000 + (high - 0xD800) * 1024 + code % 1024, nil
    end
    return utf8(code)
  end))
end

-- A JSON object's text with the string, or null, under its own `key` replaced; nil where there is none.
-- With `only`, just where that is what the string is.
function names.replaced(text, key, value, only)
  local at, level, done, parts = 1, 0, 1, {}
  local its = string.find(text, '"' .. key .. '"', 1, true)
  while its do -- behind the last of these there is nothing to look for
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
        local _, begin = string.find(text, '^%s*:%s*["n]', stop + 1)
        local last = begin and (string.byte(text, begin) == 34 and string_end(text, begin) or begin + 3)
        local said = last and string.byte(text, begin) == 34 and unescaped(string.sub(text, begin + 1, last - 1))
        if last and (not only or said == only) then
          parts[#parts + 1] = string.sub(text, done, begin - 1) .. quoted(value)
          done, at = last + 1, last + 1
        end
      end
    elseif what == "{" or what == "[" then
      level = level + 1
    else
      level = level - 1
    end
    if at > its then
      its = string.find(text, '"' .. key .. '"', at, true)
    end
  end
  if done == 1 then
    return nil
  end
  return table.concat(parts) .. string.sub(text, done)
end

-- A JSON object's text with a further first member; nil where it is no object.
function names.inserted(text, key, value)
  local _, stop, next_one = string.find(text, "^%s*{%s*(.)")
  if stop == nil then
    return nil
  end
  local more = next_one ~= "}" and "," or ""
  return string.sub(text, 1, stop - 1) .. quoted(key) .. ":" .. quoted(value) .. more .. string.sub(text, stop)
end

-- The path under the name that the replica knows, and whether it names a model at all.
local function path_under(config, path, request, known)
  local segment, first, stop = segment_in(path, config.paths)
  local here = segment and decoded(segment)
  if here == nil then
    return path, false
  end
  if here ~= request.name and here ~= model_and_version(request.name) then
    return path, true
  end
  local model, version = model_and_version(known)
  local rest = string.sub(path, stop + 1)
  local version_there = string.match(rest, "^/versions/([^/?:]+)")
  if version_there and (version or config.versions) then
    rest = string.sub(rest, #MARK + #version_there + 1)
    rest = version and MARK .. (version == version_there and version or encoded(version)) .. rest or rest
  elseif version then
    rest = MARK .. encoded(version) .. rest
  end
  return string.sub(path, 1, first - 1) .. (model == here and segment or encoded(model)) .. rest, true
end

local function refuse(h, message)
  h:respond({ [":status"] = "400", ["content-type"] = "text/plain" }, message)
end

-- How messages are renamed: those that name what the request does, or nothing where a fallback stands in.
local function in_messages(request, known)
  local model, version = model_and_version(known)
  local plain = model_and_version(request.name)
  if version == nil and request.full ~= request.name then
    version = "" -- the one that was asked for is another model's
  end
  return function(name)
    if name == request.name or name == plain or name == "" and request.from == "fallback" then
      return model, version
    end
    return nil
  end
end

local function rename_message(h, headers, method, request, known)
  if (headers:get("grpc-encoding") or "identity") ~= "identity" then
    return refuse(h, "the replica knows model " .. request.name
      .. " under another name, which cannot be written into compressed messages")
  end
  headers:remove("content-length")
  local rename = in_messages(request, known)
  if method ~= "StreamInfer" then
    local body = h:body()
    if body then
      body:setBytes((messages.in_frames(body:getBytes(0, body:length()), rename)))
    end
    return
  end
  local read = messages.reader(rename)
  for chunk in h:bodyChunks() do
    chunk:setBytes(read(chunk:getBytes(0, chunk:length())))
  end
end

-- Comes last: waiting for the body ends the life of all that was asked of the request before.
local function rename_json(h, key, request, known)
  local body = h:body()
  if body == nil then
    return
  end
  local unread = request.from ~= "json" and request.from ~= "fallback"
  local text = body:getBytes(0, body:length())
  local changed = names.replaced(text, key, model_and_version(known), unread and model_and_version(request.name))
  if changed == nil and request.from == "fallback" then
    changed = names.inserted(text, key, model_and_version(known))
  end
  if changed then
    body:setBytes(changed)
  end
end

local function is_json(headers)
  local kind = string.lower(headers:get("content-type") or "")
  return string.find(kind, "^%s*application/json") or string.find(kind, "^%s*application/[%w.+-]+%+json")
end

function envoy_on_request(h)
  local headers = h:headers()
  local told = headers:get(TOLD)
  if told then
    headers:remove(TOLD)
  end
  local metadata = h:streamInfo():dynamicMetadata()
  local own = metadata:get(OWN)
  if own == nil or own.model == nil then
    return
  end
  local config = settings_of(h, read_settings)
  local asked = metadata:get(LB)[config.key]
  local known = told and told_of(told, asked) or config.known[asked] or asked
  local request = { name = own.model, full = own.full or own.model, from = own.from }
  local stands_in = own.from == "fallback"
  -- A slash of a model's own name is no version's: nothing is taken apart that nobody has put together.
  local same = known == request.full and not config.versions and not stands_in

  local path = own.path or headers:get(":path")
  if string.find(headers:get("content-type") or "", "^application/grpc") then
    local method = string.match(path, "^/inference%.GRPCInferenceService/Model(%a+)$")
    local _, version = model_and_version(known)
    if method and not same and (known ~= request.full or stands_in or version and request.from ~= "grpc") then
      rename_message(h, headers, method, request, known)
    end
    return
  end
  local onward, in_path = path, false
  if not same then
    onward, in_path = path_under(config, path, request, known)
  end
  if own.path or onward ~= path then
    metadata:set(OWN, "path", path)
    headers:replace(":path", onward)
    headers:replace(ORIGINAL, path)
    if onward == path then
      headers:remove(ORIGINAL)
    end
  end
  if in_path or config.json_key == nil or not is_json(headers) then
    return
  end
  local written = own.from == "json" and request.name or model_and_version(request.name)
  if not same and (stands_in and config.inserts or not stands_in and model_and_version(known) ~= written) then
    metadata:set(OWN, "length", own.length or headers:get("content-length") or "")
    rename_json(h, config.json_key, request, known)
  elseif own.length == "" then
    headers:remove("content-length")
  elseif own.length then
    headers:replace("content-length", own.length)
  end
end
