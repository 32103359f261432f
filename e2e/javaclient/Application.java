import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * An application that sends and consumes with RocketMQ's own client, unmodified and with default settings, but
 * that a new consumer group begins with the first message of each queue.
 *
 * Standard output tells what happens, a line each, fields between tabs, times in microseconds since 1970:
 *
 *   started
 *   sent     begin  end  key  queue  queue offset  status  offset message id
 *   failed   begin  end  key  error
 *   given    time   key  physical offset  how often it had been sent back
 *   stopped
 *
 * A line of input ends the sends; "stopped" follows when none is under way. The end of the input ends the program.
 */
public class Application {
    private static final long LIMIT_SECONDS = 2 * 60 * 60; // of the whole program
    private static final long END_SECONDS = 15; // of the end, where brokers are gone
    private static final long SEND_SECONDS = 3; // DefaultMQProducer's sendMsgTimeout
    private static final long RETRY_AFTER = TimeUnit.MILLISECONDS.toNanos(100);

    private static final PrintStream OUT = System.out;

    /** A message that was not acknowledged yet; the same object is sent again, as an application would. */
    private static final class Outgoing {
        final String key;
        final Message message;
        long due; // not before, by System.nanoTime()

        Outgoing(String topic, String key) {
            this.key = key;
            this.message = new Message(topic, "", key, key.getBytes(StandardCharsets.UTF_8));
        }
    }

    private final DefaultMQProducer producer;
    private final DefaultMQPushConsumer consumer;
    private final String topic;
    private final String prefix;
    private final double rate;
    private final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor();
    private final ExecutorService senders = Executors.newCachedThreadPool();
    private final Queue<Outgoing> failed = new ConcurrentLinkedQueue<>(); // the earliest due first
    private final AtomicInteger busy = new AtomicInteger();
    private int begun; // by the clock's thread alone

    private Application(String servers, String topic, String producerGroup, String consumerGroup, String prefix, double rate) throws Exception {
        this.topic = topic;
        this.prefix = prefix;
        this.rate = rate;
        producer = new DefaultMQProducer(producerGroup);
        producer.setNamesrvAddr(servers);
        consumer = new DefaultMQPushConsumer(consumerGroup);
        consumer.setNamesrvAddr(servers);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt m : messages) {
                say("given", now(), m.getKeys(), m.getCommitLogOffset(), m.getReconsumeTimes());
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
    }

    public static void main(String[] args) {
        System.setOut(System.err); // what the client may print is none of the lines
        haltAfter(LIMIT_SECONDS);
        try {
            new Application(args[0], args[1], args[2], args[3], args[4], Double.parseDouble(args[5])).run();
        } catch (Exception e) {
            e.printStackTrace();
            System.exit(1); // the client's threads would go on
        }
        System.exit(0);
    }

    private void run() throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        consumer.start();
        producer.start();
        say("started");
        clock.scheduleAtFixedRate(this::tick, 0, (long) (TimeUnit.SECONDS.toNanos(1) / rate), TimeUnit.NANOSECONDS);
        boolean more = input.readLine() != null;
        if (!more) {
            haltAfter(END_SECONDS);
        }
        clock.shutdownNow();
        clock.awaitTermination(SEND_SECONDS, TimeUnit.SECONDS);
        senders.shutdown();
        if (senders.awaitTermination(3 * SEND_SECONDS, TimeUnit.SECONDS)) {
            say("stopped");
        }
        while (more) {
            more = input.readLine() != null;
        }
        haltAfter(END_SECONDS);
        consumer.shutdown();
        producer.shutdown();
    }

    /** Ends the program whatever it does by then. */
    private static void haltAfter(long seconds) {
        Thread t = new Thread(() -> {
            try {
                TimeUnit.SECONDS.sleep(seconds);
            } catch (InterruptedException e) {
                return;
            }
            System.err.println("not at the end after " + seconds + " s");
            Runtime.getRuntime().halt(1);
        });
        t.setDaemon(true);
        t.start();
    }

    /** Begins one attempt: a message that failed a while ago, else a new one. Stuck ones do not hold up the rest. */
    private void tick() {
        if (busy.get() >= rate * SEND_SECONDS + 2) {
            return;
        }
        Outgoing next = failed.peek();
        if (next != null && next.due - System.nanoTime() <= 0) {
            failed.remove();
        } else {
            next = new Outgoing(topic, prefix + String.format("%06d", ++begun));
        }
        Outgoing o = next;
        busy.incrementAndGet();
        senders.execute(() -> attempt(o));
    }

    private void attempt(Outgoing o) {
        long begin = now();
        try {
            SendResult r = producer.send(o.message);
            say("sent", begin, now(), o.key, r.getMessageQueue().getQueueId(), r.getQueueOffset(), r.getSendStatus(), r.getOffsetMsgId());
        } catch (Exception e) {
            say("failed", begin, now(), o.key, oneLine(e));
            o.due = System.nanoTime() + RETRY_AFTER;
            failed.add(o);
        } finally {
            busy.decrementAndGet();
        }
    }

    private static String oneLine(Exception e) {
        String text = e.toString();
        return text.substring(0, Math.min(text.length(), 400)).replaceAll("\\s+", " ");
    }

    private static long now() {
        Instant t = Instant.now();
        return TimeUnit.SECONDS.toMicros(t.getEpochSecond()) + t.getNano() / 1000;
    }

    private static void say(Object... fields) {
        StringBuilder line = new StringBuilder();
        for (Object f : fields) {
            line.append(line.length() == 0 ? "" : "\t").append(f);
        }
        synchronized (OUT) {
            OUT.print(line.append('\n'));
            OUT.flush();
        }
    }
}
