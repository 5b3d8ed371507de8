-- A dissector for Wireshark and tshark: the QDataStream file transfer of qdrop and of Qt programs,
-- as docs/PROTOCOL.md describes it. Tested with 4.0, and written for 3.6 and newer.
--
-- To install it, copy this file into the directory of your Lua plugins, which Wireshark shows under
-- Help, About, Folders, and start Wireshark anew. On Linux and macOS that is
--
--     mkdir -p ~/.local/lib/wireshark/plugins && cp qdrop.lua ~/.local/lib/wireshark/plugins/
--
-- To try it without that:
--
--     tshark -X lua_script:qdrop.lua -r capture.pcap
--     wireshark -X lua_script:qdrop.lua capture.pcap
--
-- The port is 9999. Other ports, or several (9999,8000-8010), are set under Preferences, Protocols,
-- QDROP (tshark -o qdrop.ports:8000), or for once with Decode As (tshark -d tcp.port==8000,qdrop).
--
-- Useful filters: qdrop.name contains "report", qdrop.refused, qdrop.malformed, qdrop.body_size > 1000000.
--
-- Nothing is told of a body but where it is: bodies are counted and never put together. So it does
-- not matter if the capture cut its packets. If it lost some, or if ports were used again, TCP's own
-- numbers tell. A Lua script sees those only while the file is read with a display filter in force
-- (qdrop, then View, Reload), or in tshark without -2.

local qdrop = Proto("qdrop", "qdrop file transfer")

-- The magic numbers and the bounds of docs/PROTOCOL.md.
local LIST = "ff5144524f500002"
local ANSWER = 0x51444F32
local RECEIPT = 0x51445231
local NULL = 0xFFFFFFFF
local LONGEST_STRING = 65536
local LONGEST_HEADER = 20 + 2 * LONGEST_STRING
local LONGEST_LIST = 262144
local MOST_ENTRIES = 2048
-- Of an entry without its name.
local SHORTEST_ENTRY = 20
local LONGEST_MESSAGE = 400
-- A float, since products of integers wrap in Lua 5.4.
local WORD = 4294967296.0

local STATUS = {
    [0] = "stored",
    "malformed",
    "too large",
    "exists",
    "no space",
    "storage failed",
    "not allowed",
    "busy",
    "timed out",
    [10] = "damaged",
}

local VERDICT = { [0] = "send", "have", "there", "no", "later" }
local SEAL = { [0] = "the bytes are the file", "the bytes are not the file" }

local f = {
    transfer = ProtoField.none("qdrop.header", "Header"),
    dialect = ProtoField.string("qdrop.dialect", "Dialect"),
    total = ProtoField.int64("qdrop.total", "Total"),
    name_size = ProtoField.uint64("qdrop.name_size", "Name size"),
    header_size = ProtoField.uint64("qdrop.header_size", "Header size"),
    name_length = ProtoField.uint32("qdrop.name.length", "Length in bytes"),
    name = ProtoField.string("qdrop.name", "Name"),
    further = ProtoField.string("qdrop.string", "Further string"),
    body_size = ProtoField.uint64("qdrop.body_size", "Body size"),
    magic = ProtoField.bytes("qdrop.magic", "Magic"),
    list = ProtoField.none("qdrop.list", "List"),
    list_length = ProtoField.uint32("qdrop.list.length", "Bytes of the entries"),
    list_count = ProtoField.uint32("qdrop.list.count", "Entries"),
    entry = ProtoField.none("qdrop.entry", "Entry"),
    number = ProtoField.uint32("qdrop.entry.number", "Number in the list"),
    flags = ProtoField.uint32("qdrop.flags", "Flags", base.HEX),
    resume = ProtoField.bool("qdrop.flags.resume", "Resume", 32, nil, 1),
    preserve = ProtoField.bool("qdrop.flags.preserve", "Set the modification time", 32, nil, 2),
    skip = ProtoField.bool("qdrop.flags.skip", "Skip if there", 32, nil, 4),
    acknowledges = ProtoField.bool("qdrop.flags.acknowledges", "Acknowledges", 32, nil, 64),
    acknowledgement = ProtoField.none("qdrop.acknowledgement", "Acknowledgement"),
    size = ProtoField.uint64("qdrop.size", "Size"),
    modified = ProtoField.absolute_time("qdrop.modified", "Modified", base.UTC),
    answer = ProtoField.none("qdrop.answer", "Answer"),
    answer_count = ProtoField.uint32("qdrop.answer.count", "Verdicts"),
    about = ProtoField.none("qdrop.answer.entry", "Entry"),
    verdict = ProtoField.uint8("qdrop.verdict", "Verdict", base.DEC, VERDICT),
    have = ProtoField.uint64("qdrop.have", "Have"),
    have_digest = ProtoField.uint64("qdrop.have_digest", "Digest (XXH64) of what it has", base.HEX),
    start = ProtoField.uint64("qdrop.start", "Start"),
    body = ProtoField.none("qdrop.body", "Body"),
    body_offset = ProtoField.uint64("qdrop.body.offset", "Offset in the file"),
    body_length = ProtoField.uint64("qdrop.body.length", "Bytes here"),
    body_name = ProtoField.string("qdrop.body.name", "Of the file"),
    end_of_body = ProtoField.none("qdrop.end_of_body", "End of the body"),
    seal = ProtoField.uint8("qdrop.seal", "Seal", base.DEC, SEAL),
    seal_digest = ProtoField.uint64("qdrop.seal.digest", "Digest (XXH64)", base.HEX),
    receipt = ProtoField.none("qdrop.receipt", "Receipt"),
    status = ProtoField.uint8("qdrop.status", "Status", base.DEC, STATUS),
    stored_size = ProtoField.uint64("qdrop.receipt.body_size", "Body size"),
    digest = ProtoField.uint64("qdrop.digest", "Digest (XXH64)", base.HEX),
    stored_as = ProtoField.string("qdrop.stored_as", "Stored as"),
    message = ProtoField.string("qdrop.message", "Message"),
    asked_in = ProtoField.framenum("qdrop.header_in", "The header is in"),
    other = ProtoField.none("qdrop.unknown", "Not understood"),
}
qdrop.fields = f

local e = {
    malformed = ProtoExpert.new(
        "qdrop.malformed", "This is no qdrop message",
        expert.group.MALFORMED, expert.severity.ERROR),
    gap = ProtoExpert.new(
        "qdrop.gap", "The capture lacks bytes before this",
        expert.group.SEQUENCE, expert.severity.WARN),
    cut = ProtoExpert.new(
        "qdrop.cut", "The rest is not in the capture, or TCP streams are not reassembled",
        expert.group.UNDECODED, expert.severity.WARN),
    refused = ProtoExpert.new(
        "qdrop.refused", "The receiver refused the file",
        expert.group.RESPONSE_CODE, expert.severity.NOTE),
    differs = ProtoExpert.new(
        "qdrop.size_differs", "The receipt is for another size than was announced",
        expert.group.PROTOCOL, expert.severity.WARN),
    other_digest = ProtoExpert.new(
        "qdrop.digest_differs", "The receipt is for other bytes than the sender read",
        expert.group.PROTOCOL, expert.severity.WARN),
    unasked = ProtoExpert.new(
        "qdrop.unasked", "Nothing was sent that could be stored",
        expert.group.PROTOCOL, expert.severity.WARN),
    unsent = ProtoExpert.new(
        "qdrop.not_sent", "The sender has not got the file as it listed it",
        expert.group.RESPONSE_CODE, expert.severity.NOTE),
    failed = ProtoExpert.new(
        "qdrop.dissector_failed", "The dissector failed",
        expert.group.UNDECODED, expert.severity.ERROR),
}
qdrop.experts = {
    e.malformed, e.gap, e.cut, e.refused, e.differs, e.other_digest, e.unasked, e.unsent, e.failed,
}

local tcp_stream = Field.new("tcp.stream")
local tcp_sequence = Field.new("tcp.seq_raw")
local tcp_header = Field.new("tcp.hdr_len")

-- The innermost one, if there is TCP in TCP.
local function last(field)
    local all = { field() }
    return all[#all]
end

-- What is known of each connection, by its ends. It is learnt as the packets are first seen, in
-- their order, and looked up when one of them is shown again.
local connections = {}
-- What was dissected: the connection, which side it is from, and where in its direction it begins.
local calls = {}
-- Where the last call was: a packet may bring several, and each adds to the Info column.
local shown = { frame = 0, offset = 0 }

function qdrop.init()
    connections = {}
    calls = {}
    shown = { frame = 0, offset = 0 }
end

-- Of each direction:
--   items     what it consists of, in order: kind, from, to, and what the kind needs
--   next      where the next item begins
--   fed       how far TCP has brought it
--   pending   the position of what TCP was asked to put together
--   lost      no longer in step: bytes are missing, or what came is no message
local function direction()
    return { items = {}, next = 0, fed = 0 }
end

-- The connection of a packet. If TCP's numbers can be had, they tell ports that are used again.
local function connection(pinfo)
    local one = tostring(pinfo.src) .. " " .. pinfo.src_port
    local other = tostring(pinfo.dst) .. " " .. pinfo.dst_port
    local key = one < other and one .. " " .. other or other .. " " .. one
    local stream = last(tcp_stream)
    stream = stream and stream.value
    local c = connections[key]
    if not c or (stream and c.stream and stream ~= c.stream) then
        -- awaiting: files that get a receipt, in order; list: the last one; answering: the one whose
        -- verdicts come; sealing: the file whose seal comes.
        c = { awaiting = {}, [true] = direction(), [false] = direction() }
        connections[key] = c
    end
    c.stream = stream or c.stream
    return c
end

-- Where something begins that a packet has at this offset. Positions do not wrap, as sequence
-- numbers do after 4 GiB.
local function position(d, offset)
    local sequence, header = last(tcp_sequence), last(tcp_header)
    if not sequence or not header then return d.fed end
    local ahead = offset - (sequence.offset - 4 + header.value)
    if not d.sequence then d.sequence, d.at = sequence.value, d.fed - ahead end
    local further = (sequence.value - d.sequence) % WORD
    if further >= WORD / 2 then further = further - WORD end
    local start = d.at + further
    if further > 0 then d.sequence, d.at = sequence.value, start end
    return start + ahead
end

-- The item that has this position.
local function find(d, at)
    local low, high = 1, #d.items
    while low <= high do
        local middle = math.floor((low + high) / 2)
        local item = d.items[middle]
        if at < item.from then
            high = middle - 1
        elseif at >= item.to then
            low = middle + 1
        else
            return item
        end
    end
end

local function append(d, item)
    d.items[#d.items + 1] = item
    d.next = item.to
    return item
end

-- Numbers of 64 bits: as Lua counts, exact up to 9 PB; and as Wireshark does.
local function u32(tvb, at) return tvb(at, 4):uint() end
local function u64(tvb, at) return u32(tvb, at) * WORD + u32(tvb, at + 4) end
local function i64(tvb, at)
    local high = u32(tvb, at)
    if high >= WORD / 2 then high = high - WORD end
    return high * WORD + u32(tvb, at + 4)
end
local function exact(number) return UInt64.new(number % WORD, math.floor(number / WORD)) end

local function bytes(number)
    return string.format("%.0f byte%s", number, number == 1 and "" or "s")
end

-- A name as it may stand in a line.
local function quoted(text)
    if not text then return "no name" end
    text = text:gsub("%c", "?")
    return '"' .. text .. '"'
end

-- The bytes of a string whose length is at `at`; or nil and what is wrong with it.
local function string_length(tvb, at)
    local length = u32(tvb, at)
    if length == NULL then return 0, nil, true end
    if length > LONGEST_STRING then
        return nil, string.format("it has a string of %.0f bytes", length)
    end
    if length % 2 == 1 then
        return nil, string.format("it has a string of an odd length, %.0f bytes", length)
    end
    return length
end

-- The text of a string at `at`, as far as it was captured, or nil if it is null.
local function text_at(tvb, at)
    local length, _, null = string_length(tvb, at)
    if null or not length then return nil end
    length = math.min(length, math.max(0, tvb:len() - at - 4))
    length = length - length % 2
    if length == 0 then return "" end
    return tvb(at + 4, length):ustring()
end

-- --- Reading. Each reader is given where a message begins and how many bytes are there. It returns
-- the message; or nil and how many bytes it needs before it can say more, and whether that is all;
-- or nil, nil and what is wrong. A header can be read as it is, without the end of its strings.

local function ask(wanted, all) return nil, wanted, all end
local function wrong(why) return nil, nil, why end
-- The same, where the numbers add up, so that it looks like nothing else.
local function refused(why) return nil, nil, why, true end

-- The bytes of a text as it was captured, without what is cut off.
local function raw(tvb, at, length)
    length = math.min(length, math.max(0, tvb:len() - at))
    return length > 0 and tvb(at, length):bytes():raw() or ""
end

-- Whether UTF-16 is a text that a person reads.
local function readable(text)
    local pair = false
    for at = 1, #text - 1, 2 do
        local high, low = text:byte(at, at + 1)
        local unit = high * 256 + low
        local second = unit >= 0xDC00 and unit <= 0xDFFF
        if pair ~= second or unit < 0x20 or (unit >= 0x7F and unit < 0xA0) then return false end
        if unit >= 0x2028 and unit <= 0x202E then return false end
        pair = unit >= 0xD800 and unit <= 0xDBFF
    end
    return #text > 0 and #text % 2 == 0 and not pair
end

-- Whether a text ends as the name of a file does.
local function is_file_name(text) return text ~= nil and text:find("^.+%.%w%w?%w?%w?%w?$") ~= nil end

-- A name of 8-bit characters: printable UTF-8 that UTF-16 would not be.
local function narrow_name(bytes)
    local text = bytes:gsub("%z$", "")
    local rest = text:gsub("[\194-\223][\128-\191]", "")
    rest = rest:gsub("[\224-\239][\128-\191][\128-\191]", "")
    rest = rest:gsub("[\240-\244][\128-\191][\128-\191][\128-\191]", "")
    if text == "" or rest:find("[%z\1-\31\127-\255]") then return nil end
    return (#bytes % 2 == 1 or is_file_name(text)) and text or nil
end

-- The bytes of a readable string that may be a name.
local function short_string(tvb, at, left)
    if left < at + 4 then return nil end
    local length = u32(tvb, at)
    if length < 2 or length > 510 or length % 2 == 1 then return nil end
    local there = math.min(length, left - at - 4)
    return readable(raw(tvb, at + 4, there - there % 2)) and length or nil
end

-- What the beginning of a stream looks like that is no header, as qdropd says it.
local function looks_like(tvb, from, left)
    local start = raw(tvb, from, math.min(left, 128))
    for _, word in ipairs({ "GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "PRI * HTTP" }) do
        if start:sub(1, #word) == word then return "HTTP" end
    end
    if start:sub(1, 2) == "\22\3" then return "TLS" end
    if start:sub(1, 4) == "SSH-" then return "SSH" end
    if #start >= 4 and not start:sub(1, 8):find("[^ -~\t\r\n]") then
        return start:find("##%d") and "a text head name##size with something behind it" or "text"
    end
    tvb = tvb(from, left):tvb()
    -- Whether a name size matches the length at `name`, and may count something else.
    local function counts(size, name, more)
        if left < name + 4 then return false end
        local fields = size - u32(tvb, name) - more
        return fields == 4 or fields == 18 or fields == 20
    end
    local function name_at(size, name, more)
        return left >= name + 4 and size == u32(tvb, name) + 4 + (more or 0)
    end
    for at = 1, math.min(64, left - 20) do
        local size = u64(tvb, at + 8)
        if u64(tvb, at) >= size and u64(tvb, at) < 2 ^ 63
            and (counts(size, at + 16, 0) or counts(size, at + 16, at)) then
            if at == 1 then return "a header with a byte in front" end
            if at == 2 or at == 4 or at == 8 then
                return string.format("a header with a number of %d bits in front", at * 8)
            end
            local length = short_string(tvb, 0, left)
            local what = length and 4 + length == at and "a string" or "something"
            return "a header with " .. what .. " in front"
        end
    end
    if short_string(tvb, 0, left) then return "a header with the name before the size" end
    if left < 20 then return nil end
    local second = u64(tvb, 8)
    if name_at(second, 24) then return "a header with a command word after the sizes" end
    if left >= 24 and name_at(u64(tvb, 16), 24) then
        return "a header with a command word between the sizes"
    end
    for at = 17, 63 do
        local is_size = name_at(second, at) or name_at(second, at, at - 16)
        if is_size and short_string(tvb, at, left) then
            return "a header with numbers between the sizes and the name"
        end
    end
    local little = tvb(8, 8):le_uint64()
    for _, length in ipairs({ tvb(16, 4):le_uint(), u32(tvb, 16) }) do
        if little == UInt64.new(length + 4) or little == UInt64.new(length + 20) then
            return "a header of little-endian numbers"
        end
    end
    local further = second - u32(tvb, 16) - 4
    if further == 1 or further == 2 or further == 4 or further == 8 then
        return "a header with a number after the name"
    end
    if further > 4 and further < LONGEST_HEADER and short_string(tvb, 16, left) then
        return "a header with another field after the name"
    end
end

-- Whether this may be the beginning of a list, or the rest of one whose first byte acknowledged.
local function begins_list(tvb, at, left, come)
    local first = tvb(at, math.min(left, 8 - come)):bytes():tohex(true)
    return first == LIST:sub(1 + 2 * come, 2 * come + #first)
end

local function read_list(tvb, at, left, come)
    if left < 20 - come then return ask(20 - come) end
    local numbers = at - come + 8
    local flags, length, count = u32(tvb, numbers), u32(tvb, numbers + 4), u32(tvb, numbers + 8)
    if flags % 64 > 7 or flags > 127 then return refused(string.format("it has unknown flags (%#x)", flags)) end
    if count > MOST_ENTRIES then
        return refused(string.format("it has %.0f entries", count))
    end
    if length > LONGEST_LIST or length < count * SHORTEST_ENTRY or (count == 0 and length > 0) then
        return refused(string.format("its %.0f entries have %.0f bytes", count, length))
    end
    local list = { flags = flags, room = length, count = count, files = {}, begun = 0 }
    return { kind = "list", size = 20 - come, list = list }
end

local function read_entry(tvb, at, left, due, as_is)
    if left < SHORTEST_ENTRY then return ask(SHORTEST_ENTRY) end
    if u32(tvb, at) >= WORD / 2 then return wrong("its size is more than any file has") end
    local length, why = string_length(tvb, at + 16)
    if not length then return wrong(why) end
    local size = SHORTEST_ENTRY + length
    local room, more = due.room - size, due.list.count - due.index
    if room < more * SHORTEST_ENTRY or (more == 0 and room > 0) then
        return wrong("its entries have not the length that it says")
    end
    if left < size and not as_is then return ask(size, true) end
    local file = { name = text_at(tvb, at + 16), size = u64(tvb, at) }
    return { kind = "entry", size = size, file = file }
end

local function read_header(tvb, at, left, due, as_is)
    -- Of a list there is more than its first byte, but for packets of single bytes.
    if due.acknowledges and left == 1 and tvb(at, 1):uint() == 0xFF then
        return { kind = "acknowledgement", size = 1 }
    end
    if begins_list(tvb, at, left, due.come) then return read_list(tvb, at, left, due.come) end
    if tvb(at, 1):uint() >= 0x80 then return wrong("its total is negative") end
    if left < 8 then return ask(20) end
    local total = i64(tvb, at)
    if total < 20 then
        return wrong(string.format("its total is %.0f bytes, less than any header has", total))
    end
    if left < 16 then return ask(20) end
    -- In halves, since Lua's numbers do not hold all of 64 bits.
    local high, low = u32(tvb, at + 8), u32(tvb, at + 12)
    local second = u64(tvb, at + 8)
    local senseless = string.format(
        "its second number is %.0f, which is no size of a header or name", second)
    local narrow = low == 0
    local size = narrow and high or low
    if (high ~= 0 and not narrow) or size < 4 or size > LONGEST_HEADER then
        return wrong(senseless)
    end
    if left < 20 then return ask(20) end
    local length = u32(tvb, at + 16)
    if length == NULL then length = 0 end
    if length > LONGEST_STRING then
        return wrong(string.format("it has a string of %.0f bytes", length))
    end
    local further = size - 4 - length
    if further ~= 0 and (narrow or further < 6 or further % 2 == 1) then return wrong(senseless) end
    -- The other dialect than name-size whose second number it may be, and how many strings' bytes.
    local dialect, skipped = "name-size", further
    if narrow then dialect = "name-size in 32 bits" end
    if further == 14 then dialect, skipped = "pyqt", 0 end
    if further >= 16 then dialect, skipped = "header-size", further - 16 end
    local start = 20 + length
    if total < start + skipped then
        return wrong(string.format(
            "its total is %.0f bytes, but the header has %.0f", total, start + skipped))
    end
    if left < start + skipped and not as_is then return ask(start + skipped) end
    local bytes = raw(tvb, at + 20, length)
    local narrow_text = narrow_name(bytes)
    if length % 2 == 1 and not narrow_text then
        return wrong(string.format("it has a string of an odd length, %.0f bytes", length))
    end
    local name = narrow_text or text_at(tvb, at + 16)
    local has_ascii = narrow_text ~= nil
    for unit = 1, #bytes - 1, 2 do
        local high, low = bytes:byte(unit, unit + 1)
        has_ascii = has_ascii or high == 0 and low < 0x80
    end
    local strings = { name = length }
    local next = 0
    local texts = total >= start + further
    local named = false
    -- Reads strings up to there; as name-size if that is how all of them can be read.
    while further > 0 do
        if next == skipped and dialect ~= "name-size" then
            -- What follows is read no further than it takes to tell whether it is a string.
            if not texts then break end
            if left < start + next + 4 and not as_is then return ask(start + next + 4) end
            local end_of_strings = start + further
            local inner = start + next
            while texts and inner < end_of_strings do
                local l = left >= inner + 4 and u32(tvb, at + inner) or NULL
                if l == 0 or l % 2 == 1 or inner + 4 + l > end_of_strings then
                    texts = false
                elseif left < inner + 4 + l and not as_is then
                    return ask(inner + 4 + l)
                else
                    texts = readable(raw(tvb, at + inner + 4, l))
                    inner = inner + 4 + l
                end
            end
            if texts then
                return refused(string.format("the %.0f bytes after its name and strings may be the "
                    .. "file's first, or a further string", further - skipped))
            end
            break
        end
        if not texts and dialect == "name-size" then return wrong(senseless) end
        local limit = texts and further or skipped
        if next == limit then
            dialect, skipped = "name-size", further
            break
        end
        if next + 4 > limit then return wrong(senseless) end
        if left < start + next + 4 then
            if as_is then break end
            return ask(start + next + 4)
        end
        local l = string_length(tvb, at + start + next)
        if not l or next + 4 + l > limit then return wrong(senseless) end
        if left < start + next + 4 + l and not as_is then return ask(start + next + 4 + l) end
        local text = text_at(tvb, at + start + next)
        texts = texts and readable(raw(tvb, at + start + next + 4, l))
        named = named or is_file_name(text)
        strings[#strings + 1] = start + next
        next = next + 4 + l
    end
    if named and not is_file_name(name) and (dialect == "name-size" or not has_ascii) then
        return refused("another field seems to stand before the name")
    end
    local header = start + skipped
    if not has_ascii and total - header > 4 then
        if left < header + 4 and not as_is then return ask(header + 4) end
        local l = short_string(tvb, at + header, at + left)
        if l and total - header >= 4 + l then
            if left < header + 4 + l and not as_is then return ask(header + 4 + l) end
            if is_file_name(text_at(tvb, at + header)) then
                return refused("another field seems to stand before the name")
            end
        end
    end
    if #strings > 0 then dialect = dialect .. " with further strings" end
    local file = { name = name, size = total - header }
    return {
        kind = "header",
        size = header,
        file = file,
        dialect = dialect,
        narrow = narrow,
        strings = strings,
    }
end

-- A header that is a text, the first of a connection: alone in its segment, or with the file behind it.
local function read_text(tvb, at, left)
    local segment = raw(tvb, at, left)
    local text = segment:match("^[^%z\1-\31\127]*")
    local name, size = text:match("^(.*)##(%d+)$")
    if not name and text ~= segment then name, size = text:match("^(.-)##(%d+)") end
    if not name or #name + #size > 998 then return nil end
    return {
        kind = "header",
        size = #name + 2 + #size,
        file = { name = name, size = tonumber(size) },
        dialect = "text",
        strings = {},
    }
end

local function read_start(tvb, at, left, due)
    if left < 8 then return ask(8, true) end
    local file, start = due.file, u64(tvb, at)
    if u32(tvb, at) == NULL and u32(tvb, at + 4) == NULL then
        return { kind = "start", size = 8, is_gone = true }
    end
    if due.list.answered and start ~= 0 and start ~= file.have then
        local had = file.have and string.format("the %.0f that the receiver has", file.have)
        return wrong(string.format("it starts at %.0f, neither at 0 nor at %s", start,
            had or "what the receiver has, which is nothing"))
    end
    if start > file.size then return wrong("it starts behind the end of the file") end
    return { kind = "start", size = 8, start = start }
end

local function read_seal(tvb, at, left)
    if tvb(at, 1):uint() > 1 then
        return wrong(string.format("its seal is %d, neither 0 nor 1", tvb(at, 1):uint()))
    end
    if left < 9 then return ask(9, true) end
    return { kind = "seal", size = 9, digest = tvb(at + 1, 8):bytes():tohex() }
end

local function read_verdict(tvb, at, left, due)
    local verdict, file = tvb(at, 1):uint(), due.file
    local message = { kind = "verdict", size = 1, verdict = verdict }
    if verdict == 1 then
        if left < 9 then return ask(9, true) end
        message.size, message.have = 9, u64(tvb, at + 1)
        if file.size and (message.have > file.size or message.have == 0 and file.size > 0) then
            return wrong(string.format("the receiver has %.0f bytes of the %.0f of %s",
                message.have, file.size, quoted(file.name)))
        end
    elseif verdict == 2 or verdict == 3 then
        if verdict == 2 and due.list.flags and due.list.flags % 8 < 4 then
            return wrong("it says that a file is there, which was not asked")
        end
        -- A refusal has its status in front.
        local text = verdict == 3 and 2 or 1
        if left < text + 4 then return ask(text + 4) end
        local length, why = string_length(tvb, at + text)
        if not length then return wrong(why) end
        if verdict == 3 and length > LONGEST_MESSAGE then
            return wrong(string.format("its message has %.0f bytes", length))
        end
        if verdict == 3 and tvb(at + 1, 1):uint() == 0 then
            return wrong("it refuses a file with status 0")
        end
        message.size = text + 4 + length
        if left < message.size then return ask(message.size, true) end
    elseif verdict == 4 and not due.wants then
        return wrong("it puts off a file, and wants none before it")
    elseif verdict > 4 then
        return wrong(string.format("its verdict is %d, which is none", verdict))
    end
    return message
end

local function read_digest(tvb, at, left)
    if left < 8 then return ask(8, true) end
    return { kind = "digest", size = 8 }
end

local function read_reply(tvb, at, left, due)
    if left < 4 then return ask(4) end
    local magic = u32(tvb, at)
    if magic == ANSWER then
        if left < 8 then return ask(8, true) end
        local count = u32(tvb, at + 4)
        if count > MOST_ENTRIES or (due.list and due.list.count ~= count) then
            return wrong(string.format("it has %.0f verdicts", count))
        end
        return { kind = "answer", size = 8, count = count }
    end
    if magic ~= RECEIPT then return wrong("it is neither a receipt nor an answer") end
    if left < 25 then return ask(25) end
    local length, why = string_length(tvb, at + 21)
    if not length then return wrong(why) end
    local message = 25 + length
    if left < message + 4 then return ask(message + 4) end
    length, why = string_length(tvb, at + message)
    if not length then return wrong(why) end
    local size = message + 4 + length
    if left < size then return ask(size, true) end
    return { kind = "receipt", size = size, message = message, status = tvb(at + 4, 1):uint() }
end

-- What is due; at the very beginning it may be a text head as well.
local function read(tvb, at, left, due, is_first, as_is)
    local kind = due.kind
    if kind == "header" then
        local text = is_first and tvb(at, 1):uint() >= 0x20 and read_text(tvb, at, left)
        if text then return text end
        return read_header(tvb, at, left, due, as_is)
    end
    if kind == "entry" then return read_entry(tvb, at, left, due, as_is) end
    if kind == "start" then return read_start(tvb, at, left, due) end
    if kind == "seal" then return read_seal(tvb, at, left) end
    if kind == "verdict" then return read_verdict(tvb, at, left, due) end
    if kind == "digest" then return read_digest(tvb, at, left) end
    return read_reply(tvb, at, left, due)
end

-- --- Learning: what a message that is seen for the first time means for what follows it.

-- The next file of a list whose body comes.
local function next_wanted(list)
    for index = list.begun + 1, list.count do
        if not list.files[index].is_unwanted then return list.files[index], index end
    end
end

-- What is due next from a side: its kind, and what it takes to read it.
local function due_from_sender(c, tvb, at, left)
    local list = c.list
    if c.sealing then return { kind = "seal", list = list, file = c.sealing } end
    if list and #list.files < list.count then
        return { kind = "entry", list = list, index = #list.files + 1, room = list.room }
    end
    -- If the answer is not in the capture: of a list of one it can be told whether its body comes.
    if list and (list.answered or list.count == 1 and not begins_list(tvb, at, left, 0)) then
        local file, index = next_wanted(list)
        if file then return { kind = "start", list = list, index = index, file = file } end
    end
    local last = c[true].items[#c[true].items]
    local come = last and last.kind == "acknowledgement" and 1 or 0
    local acknowledges = list and list.flags and list.flags >= 64 and come == 0
    return { kind = "header", list = list, acknowledges = acknowledges, come = come }
end

local function due_from_receiver(c)
    local list = c.answering
    if list and list.told < list.count then
        local index = list.told + 1
        local file = list.files[index] or {}
        return { kind = "verdict", list = list, index = index, file = file, wants = list.wants }
    end
    if list and list.digests[1] then return { kind = "digest", file = list.digests[1] } end
    list = c.list
    local is_open = list and #list.files == list.count and not list.answered
    return { kind = "reply", list = is_open and list or nil }
end

-- Bytes of that side are missing, and so is what they began.
local function lose(c, sends)
    c[sends].lost = true
    c.answering = nil
    if sends then c.list, c.sealing = nil, nil end
end

local learn_of = {
    header = function(c, message)
        c.awaiting[#c.awaiting + 1] = message.file
        return message.file, message.file.size
    end,
    list = function(c, message) c.list = message.list end,
    acknowledgement = function() return nil end,
    entry = function(c, message, due)
        due.list.files[due.index] = message.file
        due.list.room = due.room - message.size
        return message.file
    end,
    start = function(c, message, due)
        due.list.begun = due.index
        if message.is_gone then return due.file end
        c.awaiting[#c.awaiting + 1] = due.file
        c.sealing = due.file
        return due.file, due.file.size - message.start
    end,
    seal = function(c, message, due)
        c.sealing = nil
        due.file.digest = message.digest
        return due.file
    end,
    answer = function(c, message, due)
        -- The list may not be in the capture.
        local list = due.list or { count = message.count, files = {} }
        list.answered, list.told, list.digests = true, 0, {}
        c.answering = list
        return list
    end,
    verdict = function(c, message, due)
        local list, file = due.list, due.file
        list.told = due.index
        file.is_unwanted = message.verdict > 1
        list.wants = list.wants or message.verdict < 2
        file.have = message.have
        if message.verdict == 1 then list.digests[#list.digests + 1] = file end
        return file
    end,
    digest = function(c, message, due)
        table.remove(c.answering.digests, 1)
        return due.file
    end,
    receipt = function(c, message, due)
        -- For the first file that has none yet; or in place of an answer, for the whole list.
        local file = table.remove(c.awaiting, 1)
        if not file and due.list then
            due.list.answered, due.list.begun = true, due.list.count
            return due.list
        end
        return file
    end,
}

local function learn(c, d, message, due, from, frame)
    local item = append(d, { kind = message.kind, from = from, to = from + message.size })
    item.due = due
    local body
    item.file, body = learn_of[message.kind](c, message, due)
    local began = message.list or message.file
    if began then began.frame = frame end
    if body and body > 0 then
        append(d, {
            kind = "body",
            from = d.next,
            to = d.next + body,
            first = message.start or 0,
            file = item.file,
        })
    end
    return item
end

-- --- Showing.

local function add_string(tree, field, tvb, at, left, narrow)
    if left < 4 then return end
    local length, _, null = string_length(tvb, at)
    if narrow then length = u32(tvb, at) end
    local text = narrow or text_at(tvb, at)
    local item = tree:add(field, tvb(at, math.min(4 + (length or 0), left)), text or "")
    if null then item:append_text(" (null)") end
    item:add(f.name_length, tvb(at, 4))
    return text
end

local function add_time(tree, tvb, at)
    local milliseconds = i64(tvb, at)
    local seconds = math.floor(milliseconds / 1000)
    local range = tvb(at, 8)
    -- What a calendar has; Lua in older versions of Wireshark makes no time after 2038 of numbers.
    if milliseconds >= 0 and seconds < 253402300800 then
        tree:add_packet_field(f.modified, range, ENC_TIME_MSECS + ENC_BIG_ENDIAN)
    elseif seconds >= -2147483648 and seconds < 0 then
        tree:add(f.modified, range, NSTime.new(seconds, (milliseconds - seconds * 1000) * 1000000))
    else
        tree:add(range, string.format("Modified: %.0f ms since 1970", milliseconds))
    end
end

local function show_list(tree, tvb, at, size)
    local branch = tree:add(f.list, tvb(at, size))
    branch:add(f.dialect, "list"):set_generated()
    branch:add(f.magic, tvb(at, size - 12))
    at = at + size - 20
    local flags = branch:add(f.flags, tvb(at + 8, 4))
    local wishes = {}
    for _, wish in ipairs({
        { f.resume, 1, "resume" },
        { f.preserve, 2, "set the time" },
        { f.skip, 4, "skip if there" },
        { f.acknowledges, 64, "acknowledges" },
    }) do
        flags:add(wish[1], tvb(at + 8, 4))
        if math.floor(u32(tvb, at + 8) / wish[2]) % 2 == 1 then wishes[#wishes + 1] = wish[3] end
    end
    branch:add(f.list_length, tvb(at + 12, 4))
    branch:add(f.list_count, tvb(at + 16, 4))
    local count = u32(tvb, at + 16)
    local about = string.format("list of %.0f file%s", count, count == 1 and "" or "s")
    if #wishes > 0 then about = about .. " (" .. table.concat(wishes, ", ") .. ")" end
    branch:append_text(": " .. about)
    return about
end

local function show_entry(tree, tvb, at, left, message, due)
    local branch = tree:add(f.entry, tvb(at, math.min(left, message.size)))
    branch:add(f.number, due.index):set_generated()
    branch:add(f.size, tvb(at, 8))
    add_time(branch, tvb, at + 8)
    add_string(branch, f.name, tvb, at + 16, left - 16)
    local about = quoted(message.file.name) .. " " .. bytes(message.file.size)
    branch:append_text(": " .. about)
    return about
end

local function show_header(tree, tvb, at, left, message)
    local file = message.file
    local branch = tree:add(f.transfer, tvb(at, math.min(left, message.size)))
    branch:add(f.dialect, message.dialect):set_generated()
    local about = quoted(file.name) .. " " .. bytes(file.size)
    if message.dialect == "text" then
        branch:add(f.name, tvb(at, #file.name), file.name)
        branch:add(f.body_size, tvb(at + #file.name + 2), exact(file.size))
    else
        branch:add(f.total, tvb(at, 8))
        if message.narrow then
            branch:add(f.name_size, tvb(at + 8, 4), exact(u32(tvb, at + 8)))
        else
            local field = message.dialect:find("^name%-size") and f.name_size or f.header_size
            branch:add(field, tvb(at + 8, 8))
        end
        local narrow = narrow_name(raw(tvb, at + 20, message.strings.name or 0))
        add_string(branch, f.name, tvb, at + 16, left - 16, narrow)
        for _, further in ipairs(message.strings) do
            add_string(branch, f.further, tvb, at + further, left - further)
        end
        branch:add(f.body_size, exact(file.size)):set_generated()
    end
    branch:append_text(": " .. about)
    return message.dialect .. " " .. about
end

local function show_receipt(tree, tvb, at, left, message, file)
    local branch = tree:add(f.receipt, tvb(at, math.min(left, message.size)))
    branch:add(f.magic, tvb(at, 4))
    local status = branch:add(f.status, tvb(at + 4, 1))
    local size = branch:add(f.stored_size, tvb(at + 5, 8))
    local digest = branch:add(f.digest, tvb(at + 13, 8))
    local name = add_string(branch, f.stored_as, tvb, at + 21, left - 21)
    local words = add_string(branch, f.message, tvb, at + message.message, left - message.message)
    if file and file.frame then branch:add(f.asked_in, file.frame):set_generated() end
    local about = STATUS[message.status] or string.format("status %d", message.status)
    if message.status == 0 then
        about = "stored as " .. quoted(name)
        if file and not file.size then
            -- It stands in place of an answer to a list.
            status:add_proto_expert_info(e.unasked)
        elseif file and u64(tvb, at + 5) ~= file.size then
            size:add_proto_expert_info(e.differs)
        elseif file and file.digest and tvb(at + 13, 8):bytes():tohex() ~= file.digest then
            digest:add_proto_expert_info(e.other_digest)
        end
    else
        about = "refused, " .. about
        status:add_proto_expert_info(e.refused)
    end
    if words and words ~= "" then about = about .. ": " .. quoted(words):sub(2, -2) end
    branch:append_text(": " .. about)
    return "receipt " .. about
end

local function show_answer(tree, tvb, at, list)
    local branch = tree:add(f.answer, tvb(at, 8))
    branch:add(f.magic, tvb(at, 4))
    branch:add(f.answer_count, tvb(at + 4, 4))
    if list.frame then branch:add(f.asked_in, list.frame):set_generated() end
    return string.format("answer to %.0f", u32(tvb, at + 4))
end

local function show_verdict(tree, tvb, at, left, message, due)
    local branch = tree:add(f.about, tvb(at, message.size))
    local verdict = branch:add(f.verdict, tvb(at, 1))
    local about = VERDICT[message.verdict] .. " " .. quoted(due.file.name)
    if message.verdict == 1 then
        branch:add(f.have, tvb(at + 1, 8))
        about = string.format("have %s of %s", bytes(message.have), quoted(due.file.name))
    elseif message.verdict == 2 then
        local name = add_string(branch, f.stored_as, tvb, at + 1, left - 1)
        if name then about = about .. " as " .. quoted(name) end
    elseif message.verdict == 3 then
        branch:add(f.status, tvb(at + 1, 1))
        local words = add_string(branch, f.message, tvb, at + 2, left - 2)
        local status = tvb(at + 1, 1):uint()
        about = about .. ", " .. (STATUS[status] or string.format("status %d", status))
        if words and words ~= "" then about = about .. ": " .. quoted(words):sub(2, -2) end
        verdict:add_proto_expert_info(e.refused)
    end
    branch:add(f.number, due.index):set_generated()
    if due.file.frame then branch:add(f.asked_in, due.file.frame):set_generated() end
    branch:append_text(": " .. about)
    return about
end

local function show_start(tree, tvb, at, message, file)
    local item = tree:add(f.start, tvb(at, 8))
    if not message.is_gone then
        return string.format("start at %.0f of %s", message.start, quoted(file.name))
    end
    item:add_proto_expert_info(e.unsent)
    return quoted(file.name) .. " is gone or has changed"
end

local function show_seal(tree, tvb, at, file)
    local branch = tree:add(f.end_of_body, tvb(at, 9))
    local seal = branch:add(f.seal, tvb(at, 1))
    branch:add(f.seal_digest, tvb(at + 1, 8))
    branch:add(f.body_name, file.name or ""):set_generated()
    if tvb(at, 1):uint() == 0 then return "seal of " .. quoted(file.name) end
    seal:add_proto_expert_info(e.unsent)
    return "seal: what came is not " .. quoted(file.name)
end

local function show(tree, tvb, at, left, message, item)
    local kind, file, due = message.kind, item.file, item.due
    if kind == "header" then return show_header(tree, tvb, at, left, message) end
    if kind == "list" then return show_list(tree, tvb, at, message.size) end
    if kind == "entry" then return show_entry(tree, tvb, at, left, message, due) end
    if kind == "receipt" then return show_receipt(tree, tvb, at, left, message, file) end
    if kind == "answer" then return show_answer(tree, tvb, at, file) end
    if kind == "verdict" then return show_verdict(tree, tvb, at, left, message, due) end
    if kind == "start" then return show_start(tree, tvb, at, message, file) end
    if kind == "seal" then return show_seal(tree, tvb, at, file) end
    if kind == "acknowledgement" then
        tree:add(f.acknowledgement, tvb(at, 1))
        return "receipts acknowledged"
    end
    tree:add(f.have_digest, tvb(at, 8))
end

local function show_body(tree, range, item, from, length, begins)
    local offset = item.first + from - item.from
    local branch = range and tree:add(f.body, range) or tree:add(f.body)
    branch:append_text(string.format(
        " of %s: %s at %.0f of %.0f", quoted(item.file.name), bytes(length), offset, item.file.size))
    branch:add(f.body_offset, exact(offset)):set_generated()
    branch:add(f.body_length, exact(length)):set_generated()
    branch:add(f.body_name, item.file.name or ""):set_generated()
    local done = from + length == item.to
    -- The header in the same packet has said whose body it is.
    if begins and from == item.from then return nil end
    return string.format("body of %s, %s at %.0f%s",
        quoted(item.file.name), bytes(length), offset, done and ", the last" or "")
end

-- What cannot be told, and why where it begins.
local function show_other(tree, range, item, from)
    local branch = tree:add(f.other, range)
    if from ~= item.from then return "not understood" end
    branch:append_text(": " .. item.text)
    branch:add_proto_expert_info(item.expert)
    return item.text
end

-- --- One call of TCP: some bytes of one direction, of one packet or put together.

local function walk(tvb, pinfo, tree, call, again)
    local c, sends, start = call.c, call.sends, call.start
    local d = c[sends]
    local words = {}
    local consumed
    -- What there was, and what of it the capture has.
    local whole, captured = tvb:reported_len(), tvb:len()
    local can_wait = pinfo.can_desegment > 0 and whole == captured
    local at = 0
    while at < whole do
        local from = start + at
        local left = captured - at
        local item = find(d, from)
        local there = math.min(whole, (item and item.to or math.huge) - start) - at
        local range = left > 0 and tvb(at, math.min(left, there)) or nil
        if item and item.kind == "body" then
            words[#words + 1] = show_body(tree, range, item, from, there, again or at > 0)
            at = at + there
        elseif item and item.kind == "other" and pinfo.number < item.frame and can_wait then
            -- What was not known yet when this packet came; TCP put it together.
            pinfo.desegment_offset = at
            pinfo.desegment_len = DESEGMENT_ONE_MORE_SEGMENT
            break
        elseif item and (item.kind == "other" or from > item.from) then
            -- The rest of what was seen, sent again; or what cannot be told.
            if range and item.kind == "other" then
                words[#words + 1] = show_other(tree, range, item, from)
            end
            at = at + there
        elseif not range then
            -- Somewhere in what the capture cut off there is a message.
            tree:add_proto_expert_info(e.cut)
            if not item then
                append(d, {
                    kind = "other",
                    from = from,
                    to = start + whole,
                    frame = pinfo.number,
                    expert = e.cut,
                    text = "cut off",
                })
                d.lost = true
            end
            break
        else
            if not item then
                if from < d.next then break end
                if from > d.next and #d.items > 0 then lose(c, sends) end
            end
            local due = item and item.due
            if not due then
                due = sends and due_from_sender(c, tvb, at, left) or due_from_receiver(c)
            end
            local message, wanted, more, is_sure = read(tvb, at, left, due, from == 0, not can_wait)
            if message then
                if not item then
                    d.lost = false
                    item = learn(c, d, message, due, from, pinfo.number)
                end
                words[#words + 1] = show(tree, tvb, at, left, message, item)
                if left < message.size then tree:add_proto_expert_info(e.cut) end
                at = at + message.size
            elseif wanted and can_wait then
                -- Exactly what is missing, once that is known. What may turn out to be no message
                -- is looked at again as soon as there is more of it.
                pinfo.desegment_offset = at
                pinfo.desegment_len = more and wanted - left or DESEGMENT_ONE_MORE_SEGMENT
                if not pinfo.visited then d.pending = from end
                consumed = at
                break
            else
                local what =
                    { kind = "other", from = from, to = start + whole, frame = pinfo.number }
                -- It may be of a body whose verdict is not in the capture.
                if sends and due.kind ~= "entry" and due.list and not due.list.answered
                    and not wanted then
                    lose(c, sends)
                end
                if d.lost then
                    what.expert, what.text = e.gap, "no message where one should begin"
                elseif wanted then
                    what.expert, what.text = e.cut, "the beginning of a message"
                    d.lost = true
                else
                    -- What begins with nonsense stays nonsense. Where bytes are missing, the next
                    -- packet may begin with a message again.
                    what.to = math.huge
                    local like = due.kind == "header" and not is_sure
                        and looks_like(tvb, at, left)
                    what.expert = e.malformed
                    what.text = "malformed: " .. (like and "it looks like " .. like or more)
                end
                if not item then append(d, what) end
                words[#words + 1] = show_other(tree, range, what, from)
                at = whole
            end
        end
    end
    if not pinfo.visited then d.fed = math.max(d.fed, start + (consumed or whole)) end
    return words
end

-- What a call is about, when it is seen for the first time.
local function meet(tvb, pinfo)
    local c = connection(pinfo)
    -- Who connected: the side whose port is not the known one.
    local connector = pinfo.src_port ~= pinfo.match_uint
    if pinfo.src_port == pinfo.dst_port then
        -- Both are: then who speaks first.
        c.first = c.first or tostring(pinfo.src)
        connector = c.first == tostring(pinfo.src)
    end
    if c.sender == nil then
        -- That side sends. In a program with reversed roles it is the other, which then speaks first,
        -- and not with a receipt: no total begins with its first byte.
        c.sender = connector or tvb(0, 1):uint() == 0x51
    end
    local sends = connector == c.sender
    local d = c[sends]
    -- What TCP has put together begins at 0; what is in a packet has headers before it.
    local start
    if tvb:offset() == 0 then start = d.pending else start = position(d, tvb:offset()) end
    return { c = c, sends = sends, start = start }
end

local function dissect(tvb, pinfo, root)
    local offset = tvb:offset()
    -- Not by its length too: what TCP puts together is shorter when it is shown again, without the
    -- beginning of the next message.
    local key = pinfo.number .. ":" .. offset
    if not pinfo.visited then calls[key] = meet(tvb, pinfo) end
    local call = calls[key]
    if not call or not call.start then return 0 end

    local again = pinfo.number == shown.frame and offset > shown.offset
    shown.frame, shown.offset = pinfo.number, offset
    local tree = root:add(qdrop, tvb())
    tree:append_text(call.sends and ", from the sender" or ", from the receiver")
    local fine, words = pcall(walk, tvb, pinfo, tree, call, again)
    if not fine then
        -- A fault of this script, which should not hide the packet.
        tree:add_proto_expert_info(e.failed, "The dissector failed: " .. tostring(words))
        words = { "?" }
    end
    pinfo.cols.protocol = "qdrop"
    if #words > 0 then
        pinfo.cols.info:set((again and "; " or "qdrop ") .. table.concat(words, "; "))
        pinfo.cols.info:fence()
    end
    return tvb:len()
end

function qdrop.dissector(tvb, pinfo, root)
    if tvb:len() == 0 then return 0 end
    return dissect(tvb, pinfo, root)
end

-- --- The port.

qdrop.prefs.ports = Pref.range("TCP ports", "9999", "Ports of those that listen", 65535)
local ports = tostring(qdrop.prefs.ports)
local table_of_ports = DissectorTable.get("tcp.port")
table_of_ports:add(ports, qdrop)

function qdrop.prefs_changed()
    if ports ~= "" then table_of_ports:remove(ports, qdrop) end
    ports = tostring(qdrop.prefs.ports)
    if ports ~= "" then table_of_ports:add(ports, qdrop) end
end
