"""The queue of one base: sorted sets and Lua on Redis or Valkey."""
