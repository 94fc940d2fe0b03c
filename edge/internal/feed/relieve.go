package feed

import "sort"

// checkHeld is called by the sweep when a socket stalls.
func (h *Hub) checkHeld() {
	if h.config.Held() > h.config.Buffers.SocketBytes {
		select {
		case h.over <- struct{}{}:
		default:
		}
	}
}

// relieve cuts the stalled sockets that lag most until nine tenths of the budget hold
// the rest.
func (h *Hub) relieve() {
	limit := h.config.Buffers.SocketBytes
	excess := h.config.Held() - limit*9/10
	if excess <= limit/10 {
		return
	}
	type laggard struct {
		reader *Reader
		lag    uint64
	}
	var list []laggard
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.eachStalled(func(r *Reader, lag uint64) { list = append(list, laggard{r, lag}) })
	}
	sort.Slice(list, func(i, j int) bool { return list[i].lag > list[j].lag })
	for _, l := range list {
		if excess <= 0 {
			return
		}
		excess -= l.reader.Owed()
		h.stats.lagged.Inc()
		l.reader.socket.Lagged(true)
	}
}

// eachStalled visits the sockets that the sweep passes over, with the bytes by which
// they lag, or for filtered ones the bytes that they are owed.
func (f *Feed) eachStalled(visit func(r *Reader, lag uint64)) {
	f.tracksMu.Lock()
	tracks := []*track{f.whole}
	for _, t := range f.tracks {
		tracks = append(tracks, t)
	}
	f.tracksMu.Unlock()
	head := f.ring.view().head
	for _, t := range tracks {
		t.mu.Lock()
		buckets := t.buckets
		t.mu.Unlock()
		for _, b := range buckets {
			b.mu.Lock()
			readers := append([]*Reader(nil), b.readers...)
			b.mu.Unlock()
			for _, r := range readers {
				if r.state.Load()&(stalled|detached) != stalled {
					continue
				}
				lag := uint64(max(0, r.Owed()))
				if t.whole {
					lag += head - min(head, r.pos.Load())
				}
				visit(r, lag)
			}
		}
	}
}
