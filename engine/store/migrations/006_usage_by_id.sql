-- An event's id begins with its time: what lies between two times lies between two ids, and
-- an index less is a quarter less to write for each event.
DROP INDEX usage_events_by_time;
