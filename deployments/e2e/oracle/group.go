package oracle

import "slices"

// judgeGroup looks at what all members of a group have received together.
func (t *Truth) judgeGroup(g *Group, p places, v *Verdict) {
	had := map[string]bool{}
	var gaps []*Message
	for i := range g.Members {
		s := &g.Members[i]
		for j := range s.Messages {
			m := &s.Messages[j]
			if m.Gap != nil && m.Err == nil {
				v.checkGap(s, m, "") // what a group had, no member knows
				gaps = append(gaps, m)
				continue
			}
			v.Events++
			if r := t.record(s, m, v); r != nil {
				if had[r.ID] {
					v.Shared++
				}
				had[r.ID] = true
			}
		}
	}
	for _, lane := range t.sortedLanes(g.Application) {
		list := t.lanes[g.Application][lane]
		for _, r := range list[firstBehind(list, g.Opened):] {
			switch {
			case had[r.ID]:
			case slices.ContainsFunc(gaps, func(m *Message) bool { return p.names(m, r) }):
				v.Named++
			default:
				v.fault(Hole, g.Name, "%s (%s at %d) came to no member; it was seen as %v", r.ID, lane, r.Offset, p[r.ID])
			}
		}
	}
}
