-- The W3C trace context of whoever asked, where their trace is recorded; nearly always null. It is kept with the rows, so that the trace goes on
-- under whichever leader takes them up.
ALTER TABLE tickets ADD COLUMN traceparent text;
ALTER TABLE matches ADD COLUMN traceparent text;
