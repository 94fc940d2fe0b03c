package consume

import (
	"sync"
	"time"
)

// assigned holds the Partitions of this ingest. Any goroutine may use it.
type assigned struct {
	mu     sync.Mutex
	topics map[string]map[int32]*Partition
}

func (a *assigned) get(topic string, number int32) *Partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.topics[topic][number]
}

func (a *assigned) put(p *Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.topics == nil {
		a.topics = make(map[string]map[int32]*Partition)
	}
	if a.topics[p.topic] == nil {
		a.topics[p.topic] = make(map[int32]*Partition)
	}
	a.topics[p.topic][p.number] = p
}

func (a *assigned) remove(list []*Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range list {
		// A partition that came back meanwhile is another one.
		if a.topics[p.topic][p.number] == p {
			delete(a.topics[p.topic], p.number)
		}
		if len(a.topics[p.topic]) == 0 {
			delete(a.topics, p.topic)
		}
	}
}

func (a *assigned) all() []*Partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*Partition
	for _, ps := range a.topics {
		for _, p := range ps {
			list = append(list, p)
		}
	}
	return list
}

// of is those of numbers that are assigned.
func (a *assigned) of(numbers map[string][]int32) []*Partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*Partition
	for topic, ns := range numbers {
		for _, n := range ns {
			if p := a.topics[topic][n]; p != nil {
				list = append(list, p)
			}
		}
	}
	return list
}

func (a *assigned) ofTopic(topic string) []*Partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*Partition
	for _, p := range a.topics[topic] {
		list = append(list, p)
	}
	return list
}

func (a *assigned) count() int { return len(a.all()) }

// lag sums up the partitions' lag; age is that of the oldest unsettled record.
func (a *assigned) lag() (records int64, age time.Duration) {
	for _, p := range a.all() {
		n, oldest := p.lag()
		records += n
		if !oldest.IsZero() {
			age = max(age, time.Since(oldest))
		}
	}
	return records, age
}
