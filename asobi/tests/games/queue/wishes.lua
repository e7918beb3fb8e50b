-- Players say whom they want to meet.
match_size = 2
strategy = "query"

function init(config)
  return {}
end
