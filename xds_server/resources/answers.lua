-- Envoy's own answers, and a translated replica's: what went wrong, in the caller's words.

local GRPC_CODES = { ["400"] = "3", ["404"] = "5", ["408"] = "4", ["413"] = "8", ["429"] = "8", ["503"] = "14", ["504"] = "4" }
local UNREACHED = { UF = true, UC = true, UR = true, LR = true, URX = true }
local OPENAI_CODES = {
  noModel = "model_required", notLoaded = "model_not_loaded", holdersDown = "model_unavailable",
}
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

local MESSAGES = {
  noModel = function() return "the request names no model" end,
  notLoaded = function(model) return "model " .. model .. " is loaded on no replica" end,
  holdersDown = function(model) return "no replica that has model " .. model .. " can be reached" end,
}

local function text_of(h)
  local body = h:body()
  return body and body:getBytes(0, body:length()) or ""
end

local function say(h, config, status, message, kind, head)
  local headers = h:headers()
  local own = h:streamInfo():dynamicMetadata():get(OWN) or {}
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
  if own.shape == "openai" then
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
  local status, method, flags = match(why, "^(%d+) (%S+) (.*)$")
  local lb = metadata:get(LB)
  local model = lb and lb[config.keys[1]]
  local kind = missed(flags, model)
  local message
  if kind then
    metadata:set(OWN, "miss", kind)
    message = MESSAGES[kind](model)
    local answer = config.misses and config.misses[kind]
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
  say(h, config, status, message, kind, method == "HEAD")
end
