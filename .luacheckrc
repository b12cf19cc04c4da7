std = "lua51"
max_line_length = 130
read_globals = { "redis", "KEYS", "ARGV" }
max_cyclomatic_complexity = 25
