-- Envoy's own answers, and a translated replica's: what went wrong, in the caller's words.

local GRPC_CODES = { ["400"] = "3", ["404"] = "5", ["408"] = "4", ["413"] = "8", ["429"] = "8", ["503"] = "14", ["504"] = "4" }
local UNREACHED = { UF = true, UC = true, UR = true, LR = true, URX = true }
local OPENAI_CODES = {
  noModel = "model_required", notLoaded = "model_not_loaded", unknown = "model_not_found",
  holdersDown = "model_unavailable",
}
-- A worker has two copies of this script for each listener (filters.py): together they ask 200 times a second.
local ASKS_A_SECOND, ASK_MS = 100, 1000
local UNKNOWN = "\0\0\0\0\2\8\2" -- as a gRPC message: protos/known.proto
local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quoted(text)
  return '"' .. gsub(text, '[%c"\\]', function(each)
    return ESCAPES[each] or string.format("\\u%04x", byte(each))
  end) .. '"'
end

local function percent_encoded(text)
  return (gsub(text, "[^ -$&-~]", function(each) return string.format("%%%02X", byte(each)) end))
end

-- Which miss it was; nil for other errors.
local function missed(flags, model)
  for flag in string.gmatch(flags, "%u+") do
    if flag == "UH" then
      return model and "notLoaded" or "noModel"
    elseif UNREACHED[flag] then
      return model and "holdersDown" or nil
    end
  end
  return nil
end

-- What this worker has asked the server in the present second, and was told.
local asked = { second = 0, count = 0, unknown = {} }

local function field(tag, text)
  local size, length = #text, ""
  while size > 127 do
    length, size = length .. char(size % 128 + 128), math.floor(size / 128)
  end
  return char(tag) .. length .. char(size) .. text
end

local function framed(message)
  local size, length = #message, ""
  for _ = 1, 4 do
    length, size = char(size % 256) .. length, math.floor(size / 256)
  end
  return "\0" .. length .. message
end

-- Whether the server says that nobody knows the model; no word from it is a no. Waiting for it ends the life
-- of all that was asked of the request before.
local function is_unknown(h, asking, model)
  local question = ""
  for _, host in ipairs(asking.hosts) do
    question = question .. field(10, host)
  end
  question = question .. field(18, model)
  local second = os.time()
  if asked.second ~= second then
    asked = { second = second, count = 0, unknown = {} }
  end
  local now = asked
  if now.unknown[question] == nil and now.count < ASKS_A_SECOND then
    now.count = now.count + 1
    local headers = {
      [":method"] = "POST", [":path"] = asking.path, [":authority"] = asking.cluster,
      ["content-type"] = "application/grpc", te = "trailers",
    }
    -- A body that comes meanwhile could not be replaced any more: it is held first, if there is one.
    h:body()
    -- A bootstrap of another make may have no such cluster.
    local made, _, answer = pcall(h.httpCall, h, asking.cluster, headers, framed(question), ASK_MS)
    now.unknown[question] = made and answer == UNKNOWN
  end
  return now.unknown[question] or false
end

local MESSAGES = {
  noModel = function() return "the request names no model" end,
  notLoaded = function(model) return "model " .. model .. " is loaded on no replica" end,
  unknown = function(model) return "model " .. model .. " is not known here" end,
  holdersDown = function(model) return "no replica that has model " .. model .. " can be reached" end,
}

local function text_of(h)
  local body = h:body()
  return body and body:getBytes(0, body:length()) or ""
end

local function say(h, config, status, message, kind, head, openai)
  local headers = h:headers()
  local translated = config.transcode and headers:get("grpc-status") ~= nil
  local content = headers:get("content-type") or ""
  if not translated and sub(content, 1, 16) == "application/grpc" then
    headers:replace("grpc-status", GRPC_CODES[status] or headers:get("grpc-status") or "13")
    headers:replace("grpc-message", percent_encoded(message))
    return
  end
  if translated then
    headers:remove("grpc-status")
    headers:remove("grpc-message")
  end
  local text
  if openai then
    local class = byte(status, 1) == 53 and "server_error" or "invalid_request_error"
    text = '{"error":{"message":' .. quoted(message) .. ',"type":"' .. class .. '","param":null,"code":'
      .. (kind and '"' .. OPENAI_CODES[kind] .. '"' or "null") .. "}}"
  else
    text = '{"error":' .. quoted(message) .. "}"
  end
  headers:replace(":status", status)
  headers:replace("content-type", "application/json")
  if head then
    -- A body would be taken for the beginning of the connection's next answer.
    headers:replace("content-length", tostring(#text))
  else
    h:body(true):setBytes(text)
  end
end

function envoy_on_response(h)
  local headers = h:headers()
  local why = headers:get("x-xds-flags")
  if why == nil then
    local status = headers:get(":status")
    if byte(status, 1) >= 52 and headers:get("grpc-status") ~= nil and settings(h).transcode then
      local message = decoded(headers:get("grpc-message") or "")
      local own = h:streamInfo():dynamicMetadata():get(OWN) or {}
      say(h, settings(h), status, message or headers:get("grpc-message"), nil, own.head)
    end
    return
  end
  headers:remove("x-xds-flags")
  local config = settings(h)
  local metadata = h:streamInfo():dynamicMetadata()
  local status, method, flags, path = match(why, "^(%d+) (%S+) (%S+) (.*)$")
  local lb = metadata:get(LB)
  local model = lb and lb[config.keys[1]]
  local kind = missed(flags, model)
  local misses = config.misses or {}
  if kind == "notLoaded" and misses.unknown then
    kind = is_unknown(h, misses.unknown, model) and "unknown" or kind
    headers, metadata = h:headers(), h:streamInfo():dynamicMetadata()
  end
  local message
  if kind then
    metadata:set(OWN, "miss", kind)
    message = MESSAGES[kind](model)
    local answer = misses[kind]
    if answer then
      status = answer.status or status
      if answer.retry_after then
        headers:replace("retry-after", answer.retry_after)
      end
    end
  else
    local said = headers:get("grpc-message")
    message = said and (decoded(said) or said) or text_of(h)
    if status == "413" and config.max_bytes then
      local purpose = config.transcode and "translate it" or "find the model's name"
      message = string.format("the body is larger than the %d bytes that are held to %s", config.max_bytes, purpose)
    elseif message == "" then
      message = "status " .. status
    end
  end
  say(h, config, status, message, kind, method == "HEAD", is_one_of(config.openai, path))
end
