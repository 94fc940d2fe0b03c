package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"canopy/shared/topic"
)

const (
	sensorCount    = 4
	sensorChannel  = "temperature"
	sensorInterval = time.Second

	// Behind a broker that is away readings are thrown away, as a real sensor would.
	deliveryTimeout  = 10 * time.Second
	maxWaitingEvents = 1000

	kelvinsAround = 3.0
	period        = 60.0 // seconds from one warmest moment to the next
)

// runSensors lets simulated sensors send to the public application through the brokers,
// each about once a second, until ctx ends. It notes in sent when they have taken one, and
// calls ready when the first event is sent.
func runSensors(ctx context.Context, brokers []string, log *zap.Logger, sent *lately, ready func()) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.AllowAutoTopicCreation(),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
		kgo.MaxBufferedRecords(maxWaitingEvents),
	)
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	defer client.Close()
	run := rand.Text()
	tick := time.NewTicker(sensorInterval / sensorCount)
	defer tick.Stop()
	for n := 0; ; n++ {
		record := reading(publicApplication, n%sensorCount+1, run+"-"+strconv.Itoa(n), time.Now())
		client.TryProduce(ctx, record, func(_ *kgo.Record, err error) {
			if err == nil {
				sent.note(time.Now())
			} else if !errors.Is(err, context.Canceled) {
				log.Warn("a simulated reading was not sent", zap.Error(err))
			}
		})
		ready()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reading is one event of a sensor as Drogue's endpoints write it: a CloudEvent in the
// Kafka binding's binary mode.
func reading(application string, sensor int, id string, at time.Time) *kgo.Record {
	device := "sensor-" + strconv.Itoa(sensor)
	partitionKey := url.PathEscape(application) + "/" + url.PathEscape(device)
	return &kgo.Record{
		Topic:     topic.Of(application),
		Key:       []byte(partitionKey),
		Value:     fmt.Appendf(nil, `{"temp":%.1f}`, temperature(sensor, at)),
		Timestamp: at,
		Headers: headers(
			"ce_specversion", "1.0",
			"ce_id", id,
			"ce_type", "io.drogue.event.v1",
			"ce_source", "drogue://"+partitionKey,
			"ce_subject", sensorChannel,
			"ce_time", at.UTC().Format(time.RFC3339Nano),
			"content-type", "application/json",
			"ce_application", application,
			"ce_applicationuid", "app-"+application,
			"ce_device", device,
			"ce_deviceuid", "dev-"+device,
			"ce_sender", device,
			"ce_senderuid", "dev-"+device,
			"ce_instance", "local",
			"ce_partitionkey", partitionKey,
		),
	}
}

func headers(pairs ...string) []kgo.RecordHeader {
	list := make([]kgo.RecordHeader, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return list
}

// temperature in degrees Celsius swings slowly, each sensor around a value of its own.
func temperature(sensor int, at time.Time) float64 {
	angle := 2*math.Pi*float64(at.UnixMilli())/1000/period + float64(sensor)
	return 20 + float64(sensor) + kelvinsAround*math.Sin(angle)
}
