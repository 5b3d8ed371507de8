/* For LD_PRELOAD: a disk whose flush takes 10 ms, and a journal that flushes once for all who wait. Whoever
 * asks waits for the next flush that begins; one runs at a time. It is shared by the threads of a process. */

#include <pthread.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static unsigned long begun, done; /* flushes */

int fsync(int file)
{
    (void)file;
    pthread_mutex_lock(&lock);
    unsigned long awaited = begun + 1;
    while (done < awaited) {
        if (begun > done) {
            pthread_cond_wait(&ended, &lock);
            continue;
        }
        begun++;
        pthread_mutex_unlock(&lock);
        usleep(10000);
        pthread_mutex_lock(&lock);
        done++;
        pthread_cond_broadcast(&ended);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int fdatasync(int) __attribute__((alias("fsync")));
