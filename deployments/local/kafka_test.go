package local

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/topic"
)

func TestTopicsOfTheStackAreBounded(t *testing.T) {
	w := start(t, "LOCAL__RUN=kafka")
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	topics := []string{topic.Of(publicApplication), topic.Of(privateApplication)}
	found, err := kadm.NewClient(client).DescribeTopicConfigs(t.Context(), topics...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range topics {
		resource, err := found.On(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		values := make(map[string]string)
		for _, c := range resource.Configs {
			values[c.Key] = c.MaybeValue()
		}
		for key, want := range topicConfig() {
			if values[key] != *want {
				t.Errorf("%s: %s = %q, want %q", name, key, values[key], *want)
			}
		}
	}
}
