package results

import "onceover/internal/redisretry"

func (s *Store) Fault() *redisretry.Fault { return s.guard.Fault() }
