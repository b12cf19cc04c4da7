std = "lua51"
max_line_length = 130
read_globals = { "redis", "KEYS", "ARGV" }
max_cyclomatic_complexity = 18
-- The usual changes are decided in its main chunk: a script would create a function around them again in every call.
files["lua/mutate.lua"] = { max_cyclomatic_complexity = 32 }
