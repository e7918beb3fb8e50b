-- Only who is about as good meets at once.
match_size = 2
strategy = "skill_based"
skill_window = 50
skill_expand_rate = 1
max_wait_seconds = 120

function init(config)
  return {}
end
