-- The name and the version in a message of the Open Inference Protocol: fields 1 and 2 of each that has any.
-- All else of a message stays byte for byte as it is.
--
-- Stands before renames.lua, in one text with it.

local messages = {}

local LARGEST = 16777216 -- bytes of a message that are held, as of one that is read for its name
local FRAME_HEAD = 5 -- bytes before a message: whether it is compressed, and its length

-- The number at `at`, and where it ends; nil where there is none.
local function varint(text, at)
  local value, scale = 0, 1
  for place = at, at + 9 do
    local each = string.byte(text, place)
    if each == nil then
      return nil
    end
    value = value + (each % 128) * scale
    if each < 128 then
      return value, place + 1
    end
    scale = scale * 128
  end
  return nil
end

local function as_varint(value)
  local digits = {}
  while value >= 128 do
    digits[#digits + 1] = string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  return table.concat(digits) .. string.char(value)
end

local function as_field(number, text)
  return string.char(number * 8 + 2) .. as_varint(#text) .. text
end

-- Where a field's value ends; nil where it is malformed.
local function after(text, kind, at)
  if kind == 0 then
    local _, stop = varint(text, at)
    return stop
  elseif kind == 2 then
    local length, stop = varint(text, at)
    return length and stop + length
  end
  return kind == 1 and at + 8 or kind == 5 and at + 4 or nil
end

-- Fields 1 and 2 wherever they stand, as {number, first byte, the byte behind it, text}; nil if malformed.
local function found_in(message)
  local found, at = {}, 1
  while at <= #message do
    local tag, start = varint(message, at)
    local stop = tag and after(message, tag % 8, start)
    if stop == nil or stop > #message + 1 then
      return nil
    end
    if tag == 10 or tag == 18 then
      local _, from = varint(message, start)
      found[#found + 1] = { (tag - 2) / 8, at, stop, string.sub(message, from, stop - 1) }
    end
    at = stop
  end
  return found
end

-- A message under another name; nil where it is not to be renamed, or cannot be read.
-- `rename(name, version)` answers with the name to set, if any, and a version; "" for none at all.
function messages.renamed(message, rename)
  local found = found_in(message)
  if found == nil then
    return nil
  end
  local said = { "", "" }
  for _, each in ipairs(found) do
    said[each[1]] = each[4] -- the last one counts
  end
  local name, version = rename(said[1], said[2])
  if name == nil then
    return nil
  end
  local parts, done = { as_field(1, name) }, 1
  if version ~= nil and version ~= "" then
    parts[2] = as_field(2, version)
  end
  for _, each in ipairs(found) do
    if each[1] == 1 or version ~= nil then
      parts[#parts + 1] = string.sub(message, done, each[2] - 1)
      done = each[3]
    end
  end
  parts[#parts + 1] = string.sub(message, done)
  return table.concat(parts)
end

local function framed(message)
  local length, digits = #message, {}
  for place = 4, 1, -1 do
    digits[place] = string.char(length % 256)
    length = math.floor(length / 256)
  end
  return "\0" .. table.concat(digits) .. message
end

-- Bytes of the frame that begins at `at`; nil while its head is not all there.
local function frame_length(text, at)
  local a, b, c, d = string.byte(text, at + 1, at + 4)
  return d and FRAME_HEAD + ((a * 256 + b) * 256 + c) * 256 + d
end

-- The whole frames of a text, renamed, and what is left at its end. Compressed ones stay as they are.
function messages.in_frames(text, rename)
  local parts, at = {}, 1
  while true do
    local length = frame_length(text, at)
    if length == nil or at + length - 1 > #text then
      break
    end
    local message = string.byte(text, at) == 0
      and messages.renamed(string.sub(text, at + FRAME_HEAD, at + length - 1), rename)
    parts[#parts + 1] = message and framed(message) or string.sub(text, at, at + length - 1)
    at = at + length
  end
  return table.concat(parts), string.sub(text, at)
end

-- The same for a text that comes in pieces: answers to each with what may go on. From a message on that is
-- too large nothing does: an answer of ours would come too late.
function messages.reader(rename)
  local held, size, wanted = {}, 0, 0
  return function(piece)
    if wanted > LARGEST + FRAME_HEAD then
      return ""
    end
    held[#held + 1] = piece
    size = size + #piece
    if size < wanted then
      return ""
    end
    local whole, rest = messages.in_frames(table.concat(held), rename)
    held, size, wanted = { rest }, #rest, frame_length(rest, 1) or FRAME_HEAD
    return whole
  end
end

